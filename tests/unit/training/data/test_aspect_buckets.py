"""Aspect buckets: their shapes, and batches of one shape that are a function of seed and step."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.data import encoding, image_set
from training.data.aspect_buckets import Buckets, bucket_sizes, choose_bucket, crop_to
from training.data.batches import row_generator
from training.data.bucket_batches import BucketBatches, WholeRows
from training.data.conditions import Requests
from training.data.image_set import DataError, ImageSet
from training.data.rows import LatentRows
from training.model.autoencoder import Autoencoder

SIZES = ((16, 16), (20, 12), (12, 20))
BUCKET = np.array([0, 1, 0, 0, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0])  # of 14 images, of which the first 12 are trained on


@pytest.mark.parametrize(("size", "step"), [(16, 4), (28, 4), (32, 8), (48, 8), (64, 16), (256, 32), (512, 64)])
def test_sides_are_multiples_and_areas_are_nearly_that_of_the_square(size: int, step: int) -> None:
    found = bucket_sizes(size, step)
    assert found[0] == (size, size)
    assert len(set(found)) == len(found) > 1
    for width, height in found:
        assert (height, width) in found
        assert width % step == height % step == 0
        assert size**2 - step * max(width, height) < width * height <= size**2
        assert max(width, height) <= 3 * min(width, height)


def test_a_step_that_does_not_divide_the_size_is_refused() -> None:
    assert bucket_sizes(8, 8) == [(8, 8)]
    with pytest.raises(ValueError, match="12 is not allowed; permitted: divisors of image_size=64"):
        bucket_sizes(64, 12)


@pytest.mark.parametrize(
    ("size", "bucket"), [((100, 100), 0), ((100, 90), 0), ((160, 100), 1), ((1000, 10), 1), ((3, 5), 2), ((1, 90), 2)]
)
def test_an_image_goes_to_the_nearest_aspect_ratio_and_loses_as_little_as_that_needs(
    size: tuple[int, int], bucket: int
) -> None:
    assert choose_bucket(size, SIZES) == bucket
    left, top, right, bottom = crop_to(size, SIZES[bucket])
    assert (right - left) / (bottom - top) == pytest.approx(SIZES[bucket][0] / SIZES[bucket][1])
    assert left == pytest.approx(size[0] - right)
    assert top == pytest.approx(size[1] - bottom)
    assert min(left, top) == pytest.approx(0)


def batches(**changes: Any) -> BucketBatches:
    given = {"batch_size": 4, "seed": 1, "steps": 300, **changes}
    return BucketBatches(lambda rows, _: {"rows": torch.from_numpy(rows)}, BUCKET[:12], **given)


def test_a_batch_has_one_shape_and_every_image_is_seen_equally_often() -> None:
    found = batches(steps=6000)
    steps = [found.indices(step).tolist() for step in range(6000)]
    assert all(len(rows) == 4 and len({BUCKET[row] for row in rows}) == 1 for rows in steps)
    counts = Counter(row for rows in steps for row in rows)
    assert set(counts) == set(range(12))
    assert all(abs(count - 2000) < 300 for count in counts.values())  # three deviations of the smallest bucket
    of_large = [row for rows in steps for row in rows if BUCKET[row] == 0]
    rounds = [of_large[start : start + 8] for start in range(0, 800, 8)]
    assert all(len(set(one)) == 8 for one in rounds)
    assert len({tuple(one) for one in rounds}) > 90


def test_a_batch_is_a_function_of_seed_and_step_even_if_steps_are_added_or_ranks_share_it() -> None:
    whole = batches()
    in_order = [whole.indices(step).tolist() for step in range(300)]
    again = batches(steps=900)
    assert [again.indices(step).tolist() for step in range(299, -1, -1)] == in_order[::-1]
    other = batches(seed=2)
    assert [other.indices(step).tolist() for step in range(300)] != in_order
    ranks = [batches(rank=rank, ranks=2) for rank in range(2)]
    for step in (0, 7, 299):
        assert torch.cat([rank[step]["rows"] for rank in ranks]).tolist() == in_order[step]
    with pytest.raises(ValueError, match="batch_size: 13 is not allowed; permitted: 1 to 12"):
        batches(batch_size=13)


@pytest.fixture
def mixed(tmp_path: Path) -> ImageSet:
    """A set of 14 grey images of three shapes; the first pixel of each is its row."""
    rng = np.random.default_rng(0)
    arrays = []
    for number, (width, height) in enumerate(SIZES):
        rows = np.flatnonzero(number == BUCKET)
        arrays.append(rng.integers(0, 256, (len(rows), height, width, 1), dtype=np.uint8))
        arrays[-1][:, 0, 0, 0] = rows
    squares = rng.integers(0, 256, (14, 16, 16, 1), dtype=np.uint8)
    records = [{"name": str(row), "text": f"picture {row}"} for row in range(14)]
    return image_set.write(
        tmp_path / "set", name="mixed", images=squares, records=records, train_count=12,
        whole=Buckets(SIZES, BUCKET, tuple(arrays)),
    )  # fmt: skip


def test_whole_images_come_with_their_captions_and_are_mirrored_at_random(mixed: ImageSet) -> None:
    rows = np.array([5, 0, 7, 5])
    seen = set()
    for step in range(8):
        generators = [row_generator(0, step, position) for position in range(4)]
        batch = WholeRows(mixed, flip=True, requests=Requests({"caption": "text"}))(rows, generators)
        assert batch["image"].shape == (4, 1, 16, 16)
        assert [request["caption"] for request in batch["requests"]] == [f"picture {row}" for row in rows]
        corners = ((batch["image"][:, 0, 0, [0, -1]] + 1) * 127.5).round().int().tolist()
        for row, (left, right) in zip(rows, corners, strict=True):
            assert row in (left, right)
            seen.add(row == left)
    assert seen == {True, False}
    assert WholeRows(mixed)(np.array([1, 10]), generators[:2])["image"].shape == (2, 1, 12, 20)


@pytest.mark.parametrize("flip", [False, True])
def test_latents_of_whole_images_are_those_of_their_rows(
    mixed: ImageSet, autoencoder: Autoencoder, tmp_path: Path, flip: bool
) -> None:
    found = encoding.encode(autoencoder, mixed, tmp_path / "latents", digest="a", flip=flip)
    assert [tuple(part.shape[-2:]) for part in found.parts] == [(8, 8), (6, 10), (10, 6)]
    assert sum(map(len, found.parts)) == found.description.count == 12
    rows = np.array([6, 1, 6])
    read = LatentRows(found, mixed, requests=Requests({"caption": "text"}))
    batch = read(rows, [row_generator(0, 0, position) for position in range(3)])
    pixels = WholeRows(mixed, flip=flip)(rows, [row_generator(0, 0, position) for position in range(3)])["image"]
    with torch.inference_mode():
        mean, std = autoencoder.moments(pixels)  # mirrored as the latents were, by the same generators
    torch.testing.assert_close(batch["moments"][:, 0], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch["moments"][:, 1], std, rtol=1e-4, atol=1e-5)
    assert batch["moments"].shape == (3, 2, 2, 6, 10)
    assert [request["caption"] for request in batch["requests"]] == ["picture 6", "picture 1", "picture 6"]


def test_a_set_whose_buckets_contradict_its_images_is_damaged(mixed: ImageSet, tmp_path: Path) -> None:
    assert mixed.description.buckets == SIZES
    np.save(tmp_path / "set/buckets.npy", np.zeros(14, np.uint16))
    with pytest.raises(DataError, match=r"damaged image set \(buckets.npy and the images of the buckets contradict"):
        image_set.read(tmp_path / "set")


def test_an_autoencoder_that_cannot_halve_a_shape_is_told(mixed: ImageSet, autoencoder: Autoencoder) -> None:
    encoding.check_images(autoencoder, mixed)
    odd = Buckets(((17, 15),), np.zeros(14, np.int64), (np.zeros((14, 15, 17, 1), np.uint8),))
    with pytest.raises(DataError, match=r"data\.bucket_step: images of 17x15 pixels; .* needs multiples of 2"):
        encoding.check_images(autoencoder, replace(mixed, whole=odd))
