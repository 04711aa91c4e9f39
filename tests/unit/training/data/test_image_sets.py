import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data import built_in, image_set
from training.data.batches import Batches
from training.data.image_set import DataError


def test_the_digits_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    one = built_in.prepare("digits", tmp_path / "1")
    two = built_in.prepare("digits", tmp_path / "2")
    for name in (image_set.IMAGES, image_set.LABELS, image_set.DESCRIPTION):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert one.description == two.description == image_set.read(tmp_path / "1").description
    assert one.images.shape == (1797, 32, 32, 1)
    held_out, labels = one.split("held_out")
    assert held_out.shape == (360, 1, 32, 32)
    assert float(held_out.min()) >= -1
    assert float(held_out.max()) <= 1
    assert min(np.bincount(labels.numpy())) >= 34


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert (image_set.to_bytes(image_set.to_unit(torch.from_numpy(images))) == images).all()


def test_an_unknown_built_in_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.name: 'faces' is not a built-in set; permitted: digits"):
        built_in.prepare("faces", tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images, labels = np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int64)
    image_set.write(tmp_path, name="black", images=images, labels=labels, classes=1, train_count=3)
    return tmp_path


def truncate(folder: Path) -> None:
    (folder / image_set.IMAGES).write_bytes((folder / image_set.IMAGES).read_bytes()[:-9])


def floats(folder: Path) -> None:
    np.save(folder / image_set.IMAGES, np.zeros((4, 8, 8, 1)))


def fewer_labels(folder: Path) -> None:
    np.save(folder / image_set.LABELS, np.zeros(3, np.int64))


def strange_description(folder: Path) -> None:
    (folder / image_set.DESCRIPTION).write_text(json.dumps({"colour": "red"}))


def no_description(folder: Path) -> None:
    (folder / image_set.DESCRIPTION).unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, "holds a damaged image set"),
        (floats, r"is float64 \(4, 8, 8, 1\); \[N, S, S, C\] uint8 is needed"),
        (fewer_labels, "holds 4 images, 3 labels and a train_count of 3"),
        (strange_description, "holds a damaged image set .*colour"),
        (no_description, r"holds no image set \(images.json is missing\)"),
    ],
)
def test_a_damaged_set_is_refused(folder: Path, damage: Callable[[Path], None], told: str) -> None:
    image_set.read(folder)
    damage(folder)
    with pytest.raises(DataError, match=rf"data\.root: .*{told}"):
        image_set.read(folder)


def rows(batches: Batches, count: int) -> list[list[int]]:
    iterator = iter(batches)
    return [next(iterator)["x"].tolist() for _ in range(count)]


def test_batches_are_a_function_of_seed_and_step() -> None:
    tensors = {"x": torch.arange(10)}
    all_of_them = rows(Batches(tensors, batch_size=4, seed=1), 9)
    assert rows(Batches(tensors, batch_size=4, seed=1, start=5), 4) == all_of_them[5:]
    assert rows(Batches(tensors, batch_size=4, seed=2), 9) != all_of_them


def test_an_epoch_shows_no_image_twice_and_epochs_differ() -> None:
    epochs = rows(Batches({"x": torch.arange(8)}, batch_size=4, seed=0), 6)
    for first, second in zip(epochs[::2], epochs[1::2], strict=True):
        assert sorted(first + second) == list(range(8))
    assert epochs[0] != epochs[2]


@pytest.mark.parametrize("size", [0, 11])
def test_batches_larger_than_the_set_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size: {size} is not allowed; permitted: 1 to 10"):
        Batches({"x": torch.arange(10)}, batch_size=size, seed=0)
