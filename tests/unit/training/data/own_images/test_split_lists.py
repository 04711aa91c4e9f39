"""Well-known sets whose splits and labels are in text files: read as meant, whole or in part."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.own_images import Files, noise_png, read_report, write_folder
from training.data.image_set import ImageSet
from training.data.own_images.inspection import inspect


def pictures(form: str, *numbers: int) -> Files:
    return {form.format(n=n): noise_png(n, (8, 8)) for n in numbers}


def held_out(made: ImageSet) -> list[str]:
    return [made.records[row]["name"].rpartition("/")[2] for row in made.rows("held_out")]


def labels_of(made: ImageSet) -> dict[str, str]:
    return {one["name"]: made.description.classes[one["label"]] for one in made.records if "label" in one}


SETS: dict[str, tuple[Files, list[str], tuple[str, ...]]] = {
    "Pascal VOC": (
        pictures("VOC/JPEGImages/{n}.jpg", 0, 1, 2)
        | pictures("VOC/SegmentationClass/{n}.png", 0, 1)
        | {f"VOC/ImageSets/Main/{name}.txt": data for name, data in (("train", b"0\n1\n9\n"), ("val", b"2\n"))},
        ["2.jpg"],
        (),
    ),
    "Food-101": (
        pictures("food/images/pie/{n}.jpg", 0, 1)
        | pictures("food/images/ramen/{n}.jpg", 1, 2)
        | {"food/meta/train.txt": b"pie/0\nramen/1\n", "food/meta/test.txt": b"pie/1\nramen/2\n"},
        ["1.jpg", "2.jpg"],
        ("pie", "ramen"),
    ),
    "Oxford pets": (
        pictures("images/Abyssinian_{n}.jpg", 0, 1)
        | {"annotations/trainval.txt": b"Abyssinian_0 1 1 1\n", "annotations/test.txt": b"# ids\nAbyssinian_1 1 1 1\n"},
        ["Abyssinian_1.jpg"],
        (),
    ),
    "Caffe": (
        pictures("images/{n}.jpg", 0, 1, 2)
        | {"train.txt": b"images/0.jpg 0\nimages/1.jpg 1\n", "val.txt": b"images/2.jpg 0\n"},
        ["2.jpg"],
        ("0", "1"),
    ),
    "YOLO": (
        pictures("data/images/{n}.jpg", 0, 1, 2)
        | {"train.txt": b"./data/images/0.jpg\n/home/me/data/images/1.jpg\n", "test.txt": b"data/images/2.jpg\n"},
        ["2.jpg"],
        (),
    ),
    "CelebA": (
        pictures("img/{n:06}.jpg", 1, 2, 3)
        | {"list_eval_partition.txt": b"000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n"},
        ["000002.jpg", "000003.jpg"],
        (),
    ),
    "tiny ImageNet": (
        pictures("t/train/n01/images/{n}.JPEG", 0, 1)
        | pictures("t/train/n02/images/{n}.JPEG", 2)
        | pictures("t/val/images/val_{n}.JPEG", 3, 4)
        | pictures("t/test/images/test_{n}.JPEG", 5)
        | {"t/val/val_annotations.txt": b"val_3.JPEG\tn01\t0\t32\t44\t62\nval_4.JPEG\tn02\t0\t1\t2\t3\n"},
        ["test_5.JPEG", "val_3.JPEG", "val_4.JPEG"],
        ("n01", "n02"),
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_the_users_split_is_held_out(name: str, make: Callable[..., ImageSet], tmp_path: Path) -> None:
    files, expected, classes = SETS[name]
    made = make(files)
    assert held_out(made) == expected
    assert made.description.classes == classes
    found = inspect(write_folder(tmp_path / "looked-at", files), 100)
    assert found.splits["held_out"] == len(expected)
    assert tuple(found.classes) == classes


def test_labels_of_tables_and_folders_make_one_set_of_classes(make: Callable[..., ImageSet]) -> None:
    made = make(SETS["tiny ImageNet"][0])
    assert list(labels_of(made).values()) == ["n01", "n01", "n02", "n01", "n02"]
    other = pictures("cat/{n}.png", 0) | pictures("dog/{n}.png", 1) | {"labels.csv": b"file,label\n0.png,tabby\n"}
    assert labels_of(make(other)) == {"cat/0.png": "tabby"}, "classes of another kind are not mixed with folders"


def test_a_picture_called_train_keeps_its_caption(make: Callable[..., ImageSet]) -> None:
    files = {f"{name}.png": noise_png(n, (8, 8)) for n, name in enumerate(("bus", "train"))}
    made = make(files | {"bus.txt": b"a bus", "train.txt": b"a red train"})
    assert [one["text"] for one in made.records] == ["a bus", "a red train"]
    assert read_report(made)["tables_not_read"] == {}


def test_a_list_of_none_of_the_pictures_is_told(make: Callable[..., ImageSet]) -> None:
    made = make(pictures("{n}.png", 0) | {"train.txt": b"7.png\n8.png\n"})
    assert read_report(made)["tables_not_read"] == {"train.txt": "none of its 2 images is here; the first: 7.png"}


def test_a_folder_named_images_is_no_class(make: Callable[..., ImageSet]) -> None:
    assert make(pictures("images/{n}.png", 0) | pictures("more/{n}.png", 1)).description.classes == ()
    deeper = pictures("images/cat/{n}.png", 0) | pictures("more/dog/{n}.png", 1)
    assert make(deeper).description.classes == ("cat", "dog")


@pytest.mark.parametrize("parts", ["images_00{}", "HAM10000_images_part_{}", "fold{}", "Batch ({})"])
def test_folders_that_are_parts_of_a_set_are_no_classes(parts: str, make: Callable[..., ImageSet]) -> None:
    one, two = parts.format(1), parts.format(2)
    assert make(pictures(one + "/{n}.png", 0) | pictures(two + "/{n}.png", 1)).description.classes == ()
    inner = pictures(one + "/cat/{n}.png", 0) | pictures(two + "/dog/{n}.png", 1)
    assert make(inner).description.classes == ("cat", "dog")
    assert make(pictures("1/{n}.png", 0) | pictures("2/{n}.png", 1)).description.classes == ("1", "2")


def test_names_in_tables_differ_in_case_or_in_their_first_folders(make: Callable[..., ImageSet]) -> None:
    files = pictures("IMG_{n}.PNG", 0) | {"labels.csv": b"file,label\nimg_0.png,cat\n"}
    assert labels_of(make(files)) == {"IMG_0.PNG": "cat"}
    same = pictures("in/a/{n}.png", 0) | pictures("in/b/{n}.png", 0)
    rows = b"file,label\nold/a/0.png,cat\nold/b/0.png,dog\n"
    assert labels_of(make(same | {"labels.csv": rows})) == {"in/a/0.png": "cat", "in/b/0.png": "dog"}


def test_what_of_json_files_beside_pictures_is_not_read_is_told(tmp_path: Path) -> None:
    shapes = b'{"version": "5", "shapes": [], "imagePath": "0.png", "text": "a cat"}'
    found = inspect(write_folder(tmp_path, pictures("{n}.png", 0) | {"0.json": shapes}), 100)
    assert found.tables == {".json files beside images": "not used: version, shapes, imagePath"}


def test_objects_of_via_name_their_pictures(make: Callable[..., ImageSet]) -> None:
    entries = b'{"0.png1234": {"filename": "0.png", "size": 1234, "regions": [], "label": "cat"}}'
    assert labels_of(make(pictures("{n}.png", 0) | {"annotations.json": entries})) == {"0.png": "cat"}
