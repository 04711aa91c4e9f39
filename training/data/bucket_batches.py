"""Batches of whole images: each step has images of one bucket, so that they have one shape."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from training.data.aspect_buckets import Buckets
from training.data.batches import Batches, Read
from training.data.conditions import AnnotatedImage, Requests
from training.data.image_set import ImageSet
from training.model.pixels import to_unit

BUCKET, ORDER = 2**32 - 1, 2**32 - 2  # keys of random numbers, beside those of epochs


class BucketBatches(Batches):
    """Batches whose rows are of one bucket.

    A step draws its bucket with the share of images that the bucket has. A bucket's batches go through its images in
    endless shuffled order, so that each image is seen equally often, and a bucket of few images repeats them. Steps
    may be added later without changing earlier ones.
    """

    def __init__(
        self, read: Read, buckets: NDArray[np.int64], *, batch_size: int, seed: int, steps: int, rank: int = 0,
        ranks: int = 1,
    ) -> None:  # fmt: skip
        """buckets: the bucket of each training row."""
        super().__init__(
            read, count=len(buckets), batch_size=batch_size, seed=seed, steps=steps, rank=rank, ranks=ranks
        )
        numbers, sizes = np.unique(buckets, return_counts=True)
        self.rows = [np.flatnonzero(buckets == number) for number in numbers]
        shares = np.cumsum(sizes) / len(buckets)
        drawn = np.random.Generator(np.random.Philox(key=[seed, BUCKET])).random(steps)
        self.bucket = np.minimum(np.searchsorted(shares, drawn, side="right"), len(numbers) - 1)  # of each step
        self.turn = np.empty(steps, dtype=np.int64)  # how many earlier steps have the step's bucket
        for number in range(len(numbers)):
            here = self.bucket == number
            self.turn[here] = np.arange(here.sum())

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the rows of the batch of `step`, [batch_size], all of one bucket."""
        number, count = int(self.bucket[step]), len(self.rows[self.bucket[step]])
        start = int(self.turn[step]) * self.batch_size
        rounds = range(start // count, (start + self.batch_size - 1) // count + 1)
        order = np.concatenate([self._round(number, one) for one in rounds])
        return order[start - rounds.start * count :][: self.batch_size]

    def _round(self, number: int, one: int) -> NDArray[np.int64]:
        """Return the rows of a bucket in the order of one round through them."""
        seeds = np.random.SeedSequence([self.seed, ORDER, number, one])
        order = np.random.Generator(np.random.Philox(seeds)).permutation(len(self.rows[number]))
        found: NDArray[np.int64] = self.rows[number][order]
        return found


class WholeRows:
    """Batches {"image": [R, C, H, W] in [-1, 1], "requests": R requests} of whole images of one bucket.

    flip: mirror half of the images at random. requests: None for batches without requests.
    """

    def __init__(self, images: ImageSet, *, flip: bool = False, requests: Requests | None = None) -> None:
        self.images, self.whole, self.flip, self.requests = images, whole_of(images), flip, requests
        self.positions = self.whole.positions

    def __call__(self, rows: NDArray[np.int64], generators: Sequence[Generator]) -> dict[str, Any]:
        """Return a batch of training images; see `BucketBatches`."""
        array = self.whole.arrays[int(self.whole.bucket[rows[0]])]
        flips = [self.flip and bool(generator.random() < 0.5) for generator in generators]
        pixels = np.stack([
            array[position][:, ::-1] if flip else array[position]
            for position, flip in zip(self.positions[rows], flips, strict=True)
        ])  # fmt: skip
        batch: dict[str, Any] = {"image": to_unit(torch.from_numpy(pixels))}
        if self.requests is not None:
            batch["requests"] = [
                self.requests(AnnotatedImage(one, self.images.records[row], flip), generator)
                for one, row, flip, generator in zip(pixels, rows, flips, generators, strict=True)
            ]
        return batch


def whole_of(images: ImageSet) -> Buckets:
    """Return the whole images of a set that has them."""
    assert images.whole is not None, "prepared with data.bucket_step"
    return images.whole
