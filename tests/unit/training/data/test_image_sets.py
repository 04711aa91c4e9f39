"""Image sets on disk: what is written is read, every part counts, and damage is told in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.data import array_files, built_in, image_set
from training.data.image_set import DataError, ImageSet
from training.model.pixels import to_bytes, to_unit

COUNT, SIDE = 7, 8
WORDS = ["Café am Fluß", "日本の犬", 'a "quoted" \\ line\nand\u2028another\r', "🙂", "", "ёлка", "x" * 3000]


def content(**changes: Any) -> dict[str, Any]:
    """Arguments of `write` for a set with everything that a set may have."""
    rng = np.random.default_rng(0)
    records = [
        {"name": f"ä-{row}", "text": text, "label": row % 2, "boxes": [{"class": 0, "box": [0.0, 0.25, 0.5, 1.0]}]}
        for row, text in enumerate(WORDS)
    ]
    return {
        "name": "all",
        "images": rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8),
        "records": records,
        "train_count": 5,
        "maps": rng.integers(0, 4, (COUNT, SIDE, SIDE), dtype=np.uint8),
        "masks": 255 * rng.integers(0, 2, (COUNT, SIDE, SIDE), dtype=np.uint8),
        "classes": ["Straße", "été"],
        "box_classes": ["犬"],
        "map_classes": ["a", "b", "c", "d"],
        **changes,
    }


def without(record: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != field}


# -- what is written is read -----------------------------------------------------------------------


def test_what_was_written_is_read_through_memory_maps(tmp_path: Path) -> None:
    given = content()
    written = image_set.write(tmp_path / "new" / "set", **given)
    for found in (written, image_set.read(tmp_path / "new" / "set")):
        for part in (found.images, found.maps, found.masks):
            assert isinstance(part, np.memmap)
            assert not part.flags.writeable
        for part, expected in ((found.images, "images"), (found.maps, "maps"), (found.masks, "masks")):
            assert np.array_equal(part, given[expected])  # type: ignore[arg-type]
        assert list(found.records) == given["records"]
        about = found.description
        assert (about.name, about.count, about.train_count) == ("all", COUNT, 5)
        assert (about.classes, about.box_classes) == (("Straße", "été"), ("犬",))
        assert about.map_classes == ("a", "b", "c", "d")
        assert (found.image_size, found.channels) == (SIDE, 3)
        assert (found.rows("train"), found.rows("held_out")) == (range(5), range(5, 7))


def test_a_set_may_have_images_and_names_alone(tmp_path: Path) -> None:
    images = np.zeros((2, SIDE, SIDE, 1), np.uint8)
    image_set.write(tmp_path, **content())
    found = image_set.write(tmp_path, name="bare", images=images, records=[{"name": "a"}, {"name": "b"}], train_count=2)
    assert found.maps is None  # nothing of the set that was there before is left
    assert found.masks is None
    assert found.records == [{"name": "a"}, {"name": "b"}]
    assert found.description.classes == found.description.box_classes == found.description.map_classes == ()
    assert len(found.rows("held_out")) == 0
    with pytest.raises(DataError, match=r"^data: not every image has a label$"):
        found.labels([0, 1])


def test_pixels_and_labels_of_some_rows(tmp_path: Path) -> None:
    given = content()
    found = image_set.write(tmp_path, **given)
    for rows in ([4, 0], np.array([4, 0]), range(4, -1, -4)):
        pixels = found.pixels(rows)
        assert pixels.shape == (2, 3, SIDE, SIDE)
        assert np.array_equal(to_bytes(pixels), given["images"][[4, 0]])
    assert found.labels([3, 0]).tolist() == [1, 0]


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = to_unit(torch.from_numpy(images))
    assert (float(floats.min()), float(floats.max())) == (-1, 1)
    assert (to_bytes(floats) == images).all()
    assert to_bytes(torch.tensor([-7.0, 7.0]).reshape(1, 1, 1, 2)).tolist() == [[[[0], [255]]]]


def test_an_order_permutes_all_parts_alike_and_may_leave_some_out(tmp_path: Path) -> None:
    given, order = content(train_count=3), np.array([6, 0, 3, 5])
    found = image_set.write(tmp_path / "ordered", **given, order=order)
    parts: dict[str, Any] = {name: given[name][order] for name in ("images", "maps", "masks")}
    by_hand = {**given, **parts, "records": [given["records"][row] for row in order]}
    expected = image_set.write(tmp_path / "by_hand", **by_hand)
    for name in (image_set.IMAGES, image_set.MAPS, image_set.MASKS, image_set.RECORDS, image_set.DESCRIPTION):
        assert (tmp_path / "ordered" / name).read_bytes() == (tmp_path / "by_hand" / name).read_bytes()
    assert [record["name"] for record in found.records] == ["ä-6", "ä-0", "ä-3", "ä-5"]
    assert found.description == expected.description


@pytest.mark.parametrize("images", [1, 2, 3, 7, 100])
def test_parts_of_any_size_make_the_same_set(images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, order = content(), np.random.default_rng(1).permutation(COUNT)
    whole = image_set.write(tmp_path / "whole", **given, order=order)
    read: list[int] = []

    class Watched(np.ndarray[Any, Any]):
        def __getitem__(self, key: Any) -> Any:
            if isinstance(key, np.ndarray):
                read.append(len(key))
            return super().__getitem__(key)

    monkeypatch.setattr(array_files, "COPY_BYTES", images * SIDE * SIDE * 3 + 1)
    watched = {**given, "images": given["images"].view(Watched)}
    parts = image_set.write(tmp_path / "parts", **watched, order=order)
    assert max(read) == min(images, COUNT)  # no more than that is in memory
    assert sum(read) == COUNT
    for name in (image_set.IMAGES, image_set.MAPS, image_set.MASKS, image_set.RECORDS):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert parts.description == whole.description


def test_images_larger_than_a_part_are_copied_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "COPY_BYTES", 1)
    given = content()
    assert np.array_equal(image_set.write(tmp_path, **given).images, given["images"])


# -- the fingerprint -------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_content_and_not_of_the_folder(tmp_path: Path) -> None:
    one = image_set.write(tmp_path / "1", **content())
    two = image_set.write(tmp_path / "2", **content())
    again = image_set.write(tmp_path / "1", **content())
    renamed = image_set.write(tmp_path / "3", **content(name="other"))
    of_maps = image_set.write(tmp_path / "4", **{**content(), "images": one.images, "maps": two.maps})
    found = {each.description.fingerprint for each in (one, two, again, renamed, of_maps)}
    assert len(found) == 1
    assert len(found.pop()) == 64


def changed(array: Any, row: int = COUNT - 1) -> Any:
    other = array.copy()
    other[row, -1, -1] ^= 1
    return other


CHANGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a pixel": lambda given: {"images": changed(given["images"])},
    "a pixel of a map": lambda given: {"maps": changed(given["maps"])},
    "a pixel of a mask": lambda given: {"masks": changed(given["masks"])},
    "no maps": lambda given: {"maps": None},
    "no masks": lambda given: {"masks": None},
    "a caption": lambda given: {"records": [{**given["records"][0], "text": "Cafe am Fluß"}, *given["records"][1:]]},
    "no caption": lambda given: {"records": [*given["records"][:-1], without(given["records"][-1], "text")]},
    "a label": lambda given: {"records": [{**given["records"][0], "label": 1}, *given["records"][1:]]},
    "no boxes": lambda given: {"records": [{**given["records"][0], "boxes": []}, *given["records"][1:]]},
    "a name": lambda given: {"records": [{**given["records"][0], "name": "b"}, *given["records"][1:]]},
    "fewer to train on": lambda given: {"train_count": 4},
    "another order": lambda given: {"order": np.array([1, 0, 2, 3, 4, 5, 6])},
    "fewer images": lambda given: {"order": np.arange(6)},
    "the names of classes": lambda given: {"classes": ["Straße", "ete"]},
    "the names of boxes' classes": lambda given: {"box_classes": ["cat"]},
    "the names of maps' classes": lambda given: {"map_classes": ["a", "b", "d", "c"]},
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_fingerprint_depends_on_every_part(what: str, tmp_path: Path) -> None:
    given = content()
    before = image_set.write(tmp_path / "before", **given).description.fingerprint
    after = image_set.write(tmp_path / "after", **{**given, **CHANGES[what](given)}).description.fingerprint
    assert before != after


def test_maps_are_no_masks_to_the_fingerprint(tmp_path: Path) -> None:
    given = content(masks=None)
    maps = image_set.write(tmp_path / "maps", **given).description.fingerprint
    masks = image_set.write(tmp_path / "masks", **{**given, "maps": None, "masks": given["maps"]})
    assert maps != masks.description.fingerprint


# -- damage ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image_set.write(tmp_path, **content())
    return tmp_path


def truncate(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-9])

    return damage


def replace(name: str, array: Any) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


def say(name: str, words: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(words, encoding="utf-8")

    return damage


def describe(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / image_set.DESCRIPTION
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}))

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def fewer_records(folder: Path) -> None:
    lines = (folder / image_set.RECORDS).read_text(encoding="utf-8").split("\n")
    (folder / image_set.RECORDS).write_text("\n".join(lines[1:]), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate(image_set.IMAGES), "holds a damaged image set .*; prepare the data again"),
        (truncate(image_set.MAPS), "holds a damaged image set .*; prepare the data again"),
        (truncate(image_set.MASKS), "holds a damaged image set .*; prepare the data again"),
        (truncate(image_set.RECORDS), "holds a damaged image set .*; prepare the data again"),
        (truncate(image_set.DESCRIPTION), "holds a damaged image set .*; prepare the data again"),
        (remove(image_set.IMAGES), "holds a damaged image set .*images.npy"),
        (remove(image_set.RECORDS), "holds a damaged image set .*records.jsonl"),
        (remove(image_set.DESCRIPTION), r"holds no image set \(images.json is missing\); prepare the data first"),
        (say(image_set.IMAGES, "no array"), "holds a damaged image set"),
        (replace(image_set.IMAGES, np.zeros((7, 8, 8, 1))), r"is float64 \(7, 8, 8, 1\); \[N, S, S, C\] uint8 is req"),
        (replace(image_set.IMAGES, np.zeros((7, 8, 9, 1), np.uint8)), r"is uint8 \(7, 8, 9, 1\)"),
        (replace(image_set.IMAGES, np.zeros((7, 8, 8), np.uint8)), r"is uint8 \(7, 8, 8\)"),
        (replace(image_set.IMAGES, np.zeros((6, 8, 8, 1), np.uint8)), "holds 6 images, 7 records and a train_count of"),
        (replace(image_set.MAPS, np.zeros((6, 8, 8), np.uint8)), "which contradict each other; prepare the data again"),
        (fewer_records, "holds 7 images, 6 records and a train_count of 5"),
        (say(image_set.RECORDS, '{"name": "a"}\n{"name": b"}\n'), "holds a damaged image set"),
        (describe(colour="red"), "holds a damaged image set .*colour"),
        (describe(count=8), "holds 7 images, 7 records and a train_count of 5, which contradict each other"),
        (describe(train_count=0), "a train_count of 0, which contradict each other"),
        (describe(train_count=8), "a train_count of 8, which contradict each other"),
        (say(image_set.IMAGES, ""), "image set"),
        (say(image_set.DESCRIPTION, "[]"), "image set"),
        (describe(train_count="5"), "image set|contradict"),
        (say(image_set.RECORDS, "5\n" * 7), "image set"),
        (replace(image_set.MAPS, np.zeros((7, 4, 4), np.uint8)), "maps"),
        (replace(image_set.MASKS, np.zeros((7, 8, 8))), "masks"),
    ],
)
def test_a_damaged_set_is_refused_in_one_line(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    image_set.read(folder)
    damage(folder)
    with pytest.raises(DataError, match=rf"^data\.root: .*{message}") as caught:
        image_set.read(folder)
    assert "\n" not in str(caught.value)


def test_a_set_that_was_not_finished_is_none(tmp_path: Path) -> None:
    image_set.write(tmp_path, **content())
    broken = content()
    with pytest.raises(IndexError):
        image_set.write(tmp_path, **{**broken, "records": broken["records"][:-1]})
    with pytest.raises(DataError, match=r"holds no image set"):
        image_set.read(tmp_path)


def test_a_set_is_utf_8_whatever_the_locale_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0, where text is ASCII unless a call says otherwise."""
    opened = Path.open

    def ascii_by_default(
        self: Path, mode: str = "r", buffering: int = -1, encoding: str | None = None, *rest: Any
    ) -> Any:
        plain = encoding in (None, "locale") and "b" not in mode
        return opened(self, mode, buffering, "ascii" if plain else encoding, *rest)

    def write_text(self: Path, data: str, encoding: str | None = None) -> None:
        self.write_bytes(data.encode(encoding or "ascii"))

    def read_text(self: Path, encoding: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "ascii")

    monkeypatch.setattr(Path, "open", ascii_by_default)
    monkeypatch.setattr(Path, "write_text", write_text)
    monkeypatch.setattr(Path, "read_text", read_text)
    image_set.write(tmp_path, **content())
    assert image_set.read(tmp_path).description.classes == ("Straße", "été")


# -- the built-in digits ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSet, Path]:
    folder = tmp_path_factory.mktemp("digits")
    return built_in.prepare("digits", folder), folder


def test_the_digits_are_the_same_bytes_every_time(digits: tuple[ImageSet, Path], tmp_path: Path) -> None:
    found, folder = digits
    again = built_in.prepare("digits", tmp_path, image_size=64)  # they have one size
    for name in (image_set.IMAGES, image_set.RECORDS, image_set.DESCRIPTION):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["images.json", "images.npy", "records.jsonl"]
    assert found.description == again.description == image_set.read(folder).description
    assert found.images.shape == (1797, 32, 32, 1)
    assert found.description.classes == tuple("0123456789")


def test_a_fifth_of_the_digits_is_held_out_evenly(digits: tuple[ImageSet, Path]) -> None:
    found, _ = digits
    rows = found.rows("held_out")
    assert (len(found.rows("train")), len(rows)) == (1437, 360)
    pixels = found.pixels(rows)
    assert pixels.shape == (360, 1, 32, 32)
    assert float(pixels.min()) >= -1
    assert float(pixels.max()) <= 1
    assert min(np.bincount(found.labels(rows).numpy())) >= 34
    names = [record["name"] for record in found.records]
    assert len(set(names)) == len(names)


def test_a_digit_s_label_is_the_digit(digits: tuple[ImageSet, Path]) -> None:
    """A nearest neighbour of the training images tells nearly all held-out ones."""
    found, _ = digits
    train, rest = (found.pixels(found.rows(split)).flatten(1) for split in ("train", "held_out"))
    nearest = torch.cdist(rest, train).argmin(dim=1)
    nearest_labels = found.labels(found.rows("train"))[nearest]
    assert (nearest_labels == found.labels(found.rows("held_out"))).float().mean() > 0.97


def test_an_unknown_built_in_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.name: 'faces' is not a built-in set; permitted: digits, shapes$"):
        built_in.prepare("faces", tmp_path)
