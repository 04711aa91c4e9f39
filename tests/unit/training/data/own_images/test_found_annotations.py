"""Annotations in the forms that people find them in: read as they are meant, or told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.own_images import (
    Files,
    json_lines,
    noise_png,
    plane_png,
    preparation_error,
    read_report,
    write_folder,
    write_tars,
)
from training.data.image_set import DataError, ImageSet
from training.data.own_images.inspection import PLANE, Inspection, inspect

COUNT = 4
FLAT = {f"{n}.png": noise_png(n, (8, 8)) for n in range(COUNT)}
TEXTS = [f"ein süßer {kind}" for kind in ("cat", "dog") * 2]
LABELS = ["cat", "dog"] * 2


def lines(form: str, head: str = "") -> str:
    return head + "".join(form.format(n=n, text=TEXTS[n], label=LABELS[n]) + "\n" for n in range(COUNT))


def texts_of(made: ImageSet) -> list[str | None]:
    return [record.get("text") for record in made.records]


def labels_of(made: ImageSet) -> list[str]:
    return [made.description.classes[record["label"]] for record in made.records]


@pytest.fixture
def look(tmp_path: Path) -> Callable[[Files], Inspection]:
    return lambda files: inspect(write_folder(tmp_path / "looked-at", files), 100)


WITH_TEXTS: dict[str, Files] = {
    "UTF-16 without a mark": {f"{n}.txt": TEXTS[n].encode("utf-16-le") for n in range(COUNT)},
    "the picture's ending in the name": {f"{n}.png.txt": TEXTS[n].encode() for n in range(COUNT)},
    "Excel's separator": {"metadata.csv": lines("{n}.png;{text}", "sep=;\nfile_name;text\n").encode("utf-8-sig")},
    "captions.txt of Flickr8k": {"captions.txt": lines("{n}.png,{text}\n{n}.png,another", "image,caption\n").encode()},
    "several in a list": {
        "metadata.jsonl": json_lines(*({"file_name": f"{n}.png", "text": [TEXTS[n], "x"]} for n in range(COUNT)))
    },
    "several in a map": {"captions.json": json.dumps({f"{n}.png": [TEXTS[n], "x"] for n in range(COUNT)}).encode()},
    "a list in an object": {
        "metadata.json": json.dumps(
            {"data": [{"image": f"{n}.png", "alt_text": TEXTS[n]} for n in range(COUNT)]}
        ).encode()
    },
}


@pytest.mark.parametrize("form", WITH_TEXTS)
def test_captions(form: str, make: Callable[..., ImageSet], look: Callable[[Files], Inspection]) -> None:
    files = FLAT | WITH_TEXTS[form]
    assert texts_of(make(files)) == TEXTS
    assert look(files).with_text == COUNT


WITH_LABELS: dict[str, Files] = {
    "labels.txt": {"labels.txt": lines("{n}.png {label}").encode()},
    "a target": {"train.csv": lines("{n},{n}.png,{label}", ",image,target\n").encode()},
    "splits": {"birds.csv": lines("{n}.png;{label};train", "filepaths;labels;data set\n").encode()},
    "a list of one": {
        "metadata.jsonl": json_lines(*({"file_name": f"{n}.png", "label": [LABELS[n]]} for n in range(COUNT)))
    },
}


@pytest.mark.parametrize("form", WITH_LABELS)
def test_labels(form: str, make: Callable[..., ImageSet]) -> None:
    assert labels_of(make(FLAT | WITH_LABELS[form])) == LABELS


def test_whole_numbers_are_labels_however_they_are_written_and_words_for_splits(make: Callable[..., ImageSet]) -> None:
    splits = ["dev", "Train", "Hold-out", "training"]
    rows = [{"file_name": f"{n}.png", "label": float(n % 2), "split": splits[n]} for n in range(COUNT)]
    made = make(FLAT | {"metadata.jsonl": json_lines(*rows)})
    assert made.description.classes == ("0", "1")
    assert [record["name"] for record in made.records] == ["1.png", "3.png", "0.png", "2.png"]
    assert made.description.train_count == 2


def test_boxes_of_yolo_are_no_captions(make: Callable[..., ImageSet], look: Callable[[Files], Inspection]) -> None:
    boxes = {f"{n}.txt": b"0 0.5 0.5 0.25 0.125\n1 0.1 .2 1e-2 1\n" for n in range(COUNT)}
    assert texts_of(make(FLAT | boxes)) == [None] * COUNT
    found = look(FLAT | boxes | {"classes.txt": b"cat\ndog"})
    assert found.with_text == 0
    assert found.left_out == {
        "beside no picture: .txt": ["classes.txt"],
        "boxes of YOLO beside it are not read": sorted(FLAT),
    }


def test_what_of_a_table_is_not_used_is_told(look: Callable[[Files], Inspection]) -> None:
    tables = {
        "a.csv": lines("{n}.png,{label}", "image,mood\n").encode(),
        "b.csv": lines("0{n},{label}", "id,label\n").encode(),
        "c.csv": b"image,label\n1.png,dog\n7.png,cat\n1.png,cat",
    }
    assert look(FLAT | tables).tables == {
        "a.csv": "4 rows; not used: mood",
        "b.csv": "none of its 4 images is here; the first: 00",
        "c.csv": "2 rows, of which 1 name no picture here (the first: 7.png); "
        "1 rows of images that it lists before: the first counts",
    }


def test_a_table_of_other_images_loses_none_of_these(make: Callable[..., ImageSet]) -> None:
    """Given a second table that names images of this set."""
    tables = {"a.csv": lines("{n}.png,{label}", "image,label\n").encode(), "b.csv": b"id,label\nX1,cow\nX2,cow"}
    made = make(FLAT | tables)
    assert labels_of(made) == LABELS
    assert read_report(made)["tables_not_read"] == {"b.csv": "none of its 2 images is here; the first: X1"}


def test_files_that_describe_no_picture_are_told(
    make: Callable[..., ImageSet], look: Callable[[Files], Inspection]
) -> None:
    files = FLAT | {"prompts.json": b"{}", "README.txt": b"about", "long.json": bytes(1 << 21)}
    assert look(files).left_out == {
        "beside no picture: .json": ["long.json", "prompts.json"],
        "beside no picture: .txt": ["README.txt"],
    }
    assert read_report(make(files))["other_files"] == {".json": 2, ".txt": 1}


def test_captions_in_json_files_are_counted_beside_pictures_that_are_not_opened(tmp_path: Path) -> None:
    files = {f"{n}.json": json.dumps({"caption": TEXTS[n]}).encode() for n in range(COUNT)}
    assert inspect(write_folder(tmp_path / "few", FLAT | files), 2).with_text == COUNT


def test_two_pictures_of_one_name_are_told_before_anything_is_prepared(tmp_path: Path) -> None:
    write_tars(tmp_path / "tars", FLAT)
    (tmp_path / "tars" / "001.tar").write_bytes((tmp_path / "tars" / "000.tar").read_bytes())
    with pytest.raises(DataError, match=r"two files are called 0\.png, the second in .*001\.tar: 0\.png"):
        inspect(str(tmp_path / "tars"), 100)


MASK = plane_png([[0, 255], [255, 0]], 4)
PAIRED: dict[str, tuple[str, str]] = {
    "a suffix": ("cat/{n}.png", "cat/{n}_mask.png"),
    "several masks": ("{n}.png", "{n}_mask_1.png"),
    "folders": ("images/{n}.png", "masks/{n}.png"),
    "folders in classes": ("cat/images/{n}.png", "cat/masks/{n}.png"),
    "folders of splits": ("images/training/{n}.png", "annotations/training/{n}.png"),
    "both": ("train/{n}.png", "train_masks/{n}_mask.png"),
    "WebDataset": ("{n}.png", "{n}.seg.png"),
    "depths": ("{n}.png", "{n}.depth.png"),
}


@pytest.mark.parametrize("layout", PAIRED)
def test_masks_of_others_are_no_pictures(
    layout: str, make: Callable[..., ImageSet], look: Callable[[Files], Inspection]
) -> None:
    picture, mask = PAIRED[layout]
    files = {picture.format(n=n): data for n, data in enumerate(FLAT.values())}
    masks = {mask.format(n=n): MASK for n in range(COUNT)}
    made = make(files | masks)
    assert [record["name"] for record in made.records] == sorted(files)
    assert made.description.classes == ()
    report: dict[str, Any] = read_report(made)
    assert (report["masks_of_others"]["count"], report["found"]) == (COUNT, COUNT)
    found = look(files | masks)
    assert (found.images, found.left_out) == (COUNT, {PLANE: sorted(masks)})
    assert {one.name for one in found.looks} == set(files)


def test_masks_that_a_table_lists_or_that_are_worn_are_pictures(make: Callable[..., ImageSet]) -> None:
    listed = json_lines(*({"file_name": name} for name in ("0.png", "0_mask.png")))
    assert len(make({"0.png": FLAT["0.png"], "0_mask.png": FLAT["1.png"], "metadata.jsonl": listed}).records) == 2
    made = make({f"{kind}/{n}.png": FLAT[f"{n}.png"] for kind in ("masks", "hats", "with_mask") for n in range(2)})
    assert made.description.classes == ("hats", "masks", "with_mask")


def test_captions_that_cannot_be_decoded_refuse_the_set(make: Callable[..., ImageSet]) -> None:
    message = preparation_error(make, FLAT | {f"{n}.txt": TEXTS[n].encode("cp1252") for n in range(COUNT)})
    assert "4 of 4 images cannot be used (100 %, permitted: data.max_bad=1 %): 4 annotation" in message
