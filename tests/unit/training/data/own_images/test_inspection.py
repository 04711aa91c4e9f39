"""An inspection tells what a source holds before anything is prepared."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.own_images import Files, json_lines, noise_png, plane_png, write_folder, write_tars
from training.data.image_set import DataError
from training.data.own_images import decoding, looks
from training.data.own_images.inspection import Inspection, inspect
from training.data.own_images.looks import near_duplicates, odd_ones
from training.previews import inspection_sheet


def inspected(tmp_path: Path, files: Files, count: int = 100) -> Inspection:
    return inspect(write_folder(tmp_path / "pets", files), count)


def test_folders_of_splits_and_classes(tmp_path: Path) -> None:
    files = {f"{split}/{kind}/{n}.png": noise_png(n) for split in ("train", "test") for kind in "ab" for n in range(3)}
    found = inspected(tmp_path, files | {"train/a/0.txt": b"first", "train/a/9.txt": b"alone", "x.mp4": b""})
    assert (found.kind, found.images, len(found.looks), found.channels) == ("folder", 12, 12, 3)
    assert (found.labels_from, found.classes) == ("folders", {"a": 6, "b": 6})
    assert found.splits == {"train": 6, "held_out": 6}
    assert (found.with_text, found.texts) == (1, ["first"])
    assert found.left_out == {
        "beside no picture: .txt": ["train/a/9.txt"],
        "not read: .mp4 (a video: write its frames, ffmpeg -i VIDEO -r 1 %06d.png)": ["x.mp4"],
    }


def test_tables_and_what_they_leave_out(tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.png", "text": f"t{n}", "label": "cat"} for n in (0, 1, 7)]
    files = {f"{n}.png": noise_png(n) for n in range(3)} | {"4.png": b"broken"}
    found = inspected(tmp_path, files | {"metadata.jsonl": json_lines(*rows), "sales.csv": b"a,b\n1,2"})
    assert (found.images, found.classes, found.with_text) == (2, {"cat": 2}, 2)
    assert found.tables["metadata.jsonl"] == "3 rows"
    assert "has the columns a, b" in found.tables["sales.csv"]
    assert found.left_out["not in the metadata"] == ["2.png", "4.png"]
    assert found.left_out["listed, but missing"] == ["7.png"]
    assert found.left_out["cannot be used: not a picture"] == ["4.png"]


def test_few_images_are_opened_and_a_stream_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []
    open_image = decoding.open_image

    def count(data: bytes, *arguments: Any) -> Any:
        opened.append(data)
        return open_image(data, *arguments)

    monkeypatch.setattr(decoding, "open_image", count)
    files = {f"{kind}/{n:02}.png": noise_png(n) for kind in "abcd" for n in range(25)}
    found = inspected(tmp_path, files, count=10)
    assert (found.images, len(found.looks), len(opened)) == (100, 10, 10)
    assert set(found.labels.values()) == set("abcd"), "they are spread over the set"
    stream = inspect(write_tars(tmp_path / "tars", files), 10)
    assert (stream.kind, stream.images, stream.complete) == ("tars", 10, False)


def test_near_duplicates_and_odd_ones(tmp_path: Path) -> None:
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((120, 120))
    files = {f"cat/{n}.png": noise_png(n, (100, 100)) for n in range(30)}
    for name, image in {
        "dog/photo.jpg": photo,
        "cat/again.jpg": photo.resize((90, 90)),
        "cat/flat.png": Image.new("RGB", (100, 100), "red"),
        "cat/wide.png": photo.resize((400, 100)).crop((0, 0, 400, 99)),
        "cat/grey.png": photo.convert("L").rotate(90),
        "cat/tiny.png": photo.rotate(180).resize((20, 20)),
    }.items():
        file = io.BytesIO()
        image.save(file, "JPEG" if name.endswith("jpg") else "PNG")
        files[name] = file.getvalue()
    found = inspected(tmp_path, files)
    assert near_duplicates(found.looks) == [("cat/again.jpg", "dog/photo.jpg")]
    assert odd_ones(found.looks, found.labels, found.classes) == {
        "much smaller than the others": ["cat/tiny.png"],
        "one side is 3 times the other": ["cat/wide.png"],
        "of one colour": ["cat/flat.png"],
        "grey among colour": ["cat/grey.png"],
        "the only one of its class": ["dog/photo.jpg"],
    }


def test_copies_are_compared_with_the_first_of_their_kind_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inspected(tmp_path, {f"{n:02}.png": noise_png(n % 2, (60, 60)) for n in range(60)})
    compared = []
    difference = looks.difference

    def count(one: looks.Look, other: looks.Look) -> float:
        compared.append(other.name)
        return difference(one, other)

    monkeypatch.setattr(looks, "difference", count)
    pairs = near_duplicates(found.looks)
    assert {first for first, _ in pairs} == {"00.png", "01.png"}
    assert len(pairs) == 58
    assert len(compared) < 2 * 60


def test_captions_that_are_empty_or_cannot_be_read_are_none(tmp_path: Path) -> None:
    files: Files = {f"{n:02}.png": noise_png(n) for n in range(20)}
    texts = {f"{n:02}.txt": b"" if n < 10 else b"a child\x92s cup" if n < 12 else b"a cup" for n in range(20)}
    found = inspected(tmp_path, files | texts)
    assert (found.with_text, found.texts) == (8, ["a cup"] * 5)
    assert found.left_out == {"cannot be used: a caption that is not UTF-8": ["10.png", "11.png"]}
    assert set(found.bad) == {"10.png", "11.png"}
    assert len(found.looks) == 18
    few = inspect(str(tmp_path / "pets"), 5)  # every fourth: 0, 4, 8, 12, 16
    assert few.with_text == 2 + round(15 * 2 / 5), "the others hold a caption as often"


def test_labels_that_mix_numbers_and_names_are_told_before_anything_is_prepared(tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.png", "label": label} for n, label in enumerate([1, 2, "cat"])]
    with pytest.raises(DataError, match=r'labels mix numbers \(0.png: 1\) and names \(2.png: "cat"\)'):
        inspected(tmp_path, {f"{n}.png": noise_png(n) for n in range(3)} | {"metadata.jsonl": json_lines(*rows)})


def test_the_sheet_is_a_picture_with_any_name_and_class(tmp_path: Path) -> None:
    found = inspected(tmp_path, {f"{kind}/{n}.png": noise_png(n) for kind in ("$a$_{", "日本") for n in range(3)})
    inspection_sheet.save(tmp_path / "sheet.png", found)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (1200, 950)


@pytest.mark.parametrize(("names", "labelled"), [("cat/{}.png dog/{}.png", True), ("{}.png", False)])
def test_the_sheet_has_an_axis_of_classes_only_if_there_are_labels(names: str, labelled: bool, tmp_path: Path) -> None:
    found = inspected(tmp_path, {name.format(n): noise_png(n) for n in range(3) for name in names.split()})
    inspection_sheet.save(tmp_path / "sheet.png", found)
    with Image.open(tmp_path / "sheet.png") as image:
        place = np.asarray(image.convert("L"))[60:280, 620:]  # below the title, beside the histogram of sizes
    assert (place < 128).any() == labelled


def test_there_is_white_between_the_images_of_a_sheet(tmp_path: Path) -> None:
    files = {f"{n}.png": plane_png(np.full((8, 8), 10 + n)) for n in range(13)}
    white = (inspection_sheet.tile(inspected(tmp_path, files).looks) == 255).all(axis=2)
    columns, rows = white.all(axis=0), white.all(axis=1)
    assert (np.flatnonzero(np.diff(columns)).size, np.flatnonzero(np.diff(rows)).size) == (23, 3)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        ("cat.0 cat.1 dog.0 dog.1", {"cat": 2, "dog": 2}),
        ("american_bulldog_1 american_bulldog_22 Abyssinian_1 Abyssinian_2", {"Abyssinian": 2, "american_bulldog": 2}),
        ("mug-(1) mug-(2) red2cup_1 red2cup_2", {"mug": 2, "red2cup": 2}),
        ("IMG_0001 IMG_0002", {}),
        ("a1 b1 c1 d1", {}),
        ("001 002 1_2 1_3", {}),
        ("boot shoe sandal", {}),
    ],
)
def test_words_that_names_begin_with_are_told_if_there_are_no_labels(
    names: str, groups: dict[str, int], tmp_path: Path
) -> None:
    files = {f"{name}.png": noise_png(n) for n, name in enumerate(names.split())}
    assert inspected(tmp_path, files).name_groups == groups
    folders = {f"{n % 2}/{name}": data for n, (name, data) in enumerate(files.items())}
    assert inspect(write_folder(tmp_path / "classes", folders), 100).name_groups == {}


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        inspect(str(tmp_path), 10)
