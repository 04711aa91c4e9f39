"""Batches are a function of seed and step, over any number of ranks and workers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from training.data.batches import Batches, row_generator


def read(rows: NDArray[np.int64], generators: Sequence[Generator]) -> dict[str, Any]:
    """The rows, and what each row's generator draws first."""
    return {"x": torch.from_numpy(rows), "drawn": torch.tensor([one.random() for one in generators])}


def batches(count: int = 10, batch_size: int = 4, seed: int = 1, steps: int = 9, **ranks: int) -> Batches:
    return Batches(read, count=count, batch_size=batch_size, seed=seed, steps=steps, **ranks)


def content(found: Batches, steps: Sequence[int]) -> list[tuple[list[int], list[float]]]:
    return [(found[step]["x"].tolist(), found[step]["drawn"].tolist()) for step in steps]


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    in_order = content(batches(), range(9))
    backwards = batches()
    assert content(backwards, range(8, -1, -1)) == in_order[::-1]  # nothing is carried from step to step
    assert content(batches(steps=100), range(9)) == in_order
    assert content(batches(), [5, 2, 5]) == [in_order[5], in_order[2], in_order[5]]
    other = content(batches(seed=2), range(9))
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in zip(in_order, other, strict=True))


def test_seeds_up_to_the_largest_have_batches_of_their_own() -> None:
    found = [content(batches(count=100, batch_size=10, seed=seed), [0]) for seed in (0, 1, 2**32, 2**63 - 1)]
    assert all(found.count(one) == 1 for one in found)


def test_an_epoch_shows_no_image_twice_and_epochs_differ() -> None:
    found = [rows for rows, _ in content(batches(count=8, steps=20), range(20))]
    epochs = [first + second for first, second in zip(found[::2], found[1::2], strict=True)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10


def test_rows_left_over_at_the_end_of_an_epoch_are_dropped_and_come_in_another() -> None:
    found = [rows for rows, _ in content(batches(count=10, steps=40), range(40))]
    epochs = [first + second for first, second in zip(found[::2], found[1::2], strict=True)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert set(np.concatenate(epochs).tolist()) == set(range(10))


def test_every_row_of_a_batch_draws_chances_of_its_own() -> None:
    drawn = [value for _, values in content(batches(), range(9)) for value in values]
    assert len(set(drawn)) == 36
    first = row_generator(1, 5, 2).random()
    assert batches()[5]["drawn"][2] == torch.tensor(first)


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_ranks_share_out_the_batch_of_one_rank_in_order(ranks: int) -> None:
    whole = batches(count=20, batch_size=6)
    parts = [batches(count=20, batch_size=6, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in range(9):
        for name in ("x", "drawn"):
            joined = torch.cat([part[step][name] for part in parts])
            assert torch.equal(joined, whole[step][name])
    assert all(len(part[0]["x"]) == 6 // ranks for part in parts)


def test_a_run_is_as_long_as_its_steps() -> None:
    assert len(batches(steps=9)) == 9
    assert len(batches(batch_size=10, steps=1000)) == 1000


@pytest.mark.parametrize(
    ("batch_size", "ranks", "message"),
    [
        (0, 1, "batch_size: 0 is not allowed; permitted: 1 to 10, the images of the set"),
        (11, 1, "batch_size: 11 is not allowed; permitted: 1 to 10, the images of the set"),
        (-2, 2, "batch_size: -2 is not allowed; permitted: 1 to 10, the images of the set"),
        (9, 2, "batch_size: 9 is not allowed; permitted: multiples of 2, the number of ranks"),
        (2, 4, "batch_size: 2 is not allowed; permitted: multiples of 4, the number of ranks"),
    ],
)
def test_batch_sizes_that_cannot_be_are_refused(batch_size: int, ranks: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        batches(batch_size=batch_size, ranks=ranks)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker:UserWarning")  # on a single core
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_begins_in_the_middle_gives_the_batches_of_there(workers: int) -> None:
    loader = DataLoader(batches(), batch_size=None, sampler=range(3, 8), num_workers=workers)
    found = list(loader)
    assert len(found) == 5
    for step, batch in zip(range(3, 8), found, strict=True):
        expected = batches()[step]
        assert torch.equal(batch["x"], expected["x"])
        assert torch.equal(batch["drawn"], expected["drawn"])
