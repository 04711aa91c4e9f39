"""Archives and parquet files that are classes, parts of a set, or configurations of a data set of the Hub."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.own_images import Files, noise_png, preparation_error, write_folder, write_tars
from training.data.image_set import DataError, ImageSet
from training.data.own_images.inspection import inspect

Archives = dict[str, Files]


def write_archives(root: Path, kind: str, archives: Archives) -> str:
    for name, files in archives.items():
        if kind == "zip":
            root.mkdir(exist_ok=True)
            with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
                for inner, data in files.items():
                    archive.writestr(inner, data)
        else:
            Path(write_tars(root / name, files), "000.tar").rename(root / f"{name}.tar")
            (root / name).rmdir()
    return str(root)


def pictures(form: str, first: int = 0) -> Files:
    return {form.format(n): noise_png(n, (8, 8)) for n in range(first, first + 2)}


def labels_of(made: ImageSet) -> dict[str, str]:
    return {one["name"]: made.description.classes[one["label"]] for one in made.records if "label" in one}


CLASSES: dict[str, tuple[Archives, list[str]]] = {
    "a class each": ({"cat": pictures("{}.png"), "dog": pictures("{}.png")}, ["cat", "dog"]),
    "ImageNet": (
        {name: pictures(name + "_{}.png") for name in ("n01440764", "n01443537")},
        ["n01440764", "n01443537"],
    ),
    "folders inside": ({"one": pictures("cat/{}.png"), "two": pictures("dog/{}.png", 2)}, ["cat", "dog"]),
    "a folder of its name in one": ({"cat": pictures("cat/{}.png"), "dog": pictures("{}.png", 2)}, ["cat", "dog"]),
    "classes in parts": (
        {"cat-000": pictures("{}.png"), "cat-001": pictures("{}.png", 2), "dog-000": pictures("{}.png", 4)},
        ["cat", "dog"],
    ),
    "parts": ({"pets-001": pictures("{}.png"), "pets-002": pictures("{}.png", 2)}, []),
    "a copy and a part": ({"pets": pictures("{}.png"), "pets (1)": pictures("{}.png", 2)}, []),
    "pictures and tables": ({"pets": pictures("{}.png"), "annotations": {"README": b"nothing"}}, []),
}


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("layout", CLASSES)
def test_archives_are_classes_if_their_names_differ_in_more_than_a_number(
    layout: str, kind: str, make: Callable[..., ImageSet], tmp_path: Path
) -> None:
    archives, classes = CLASSES[layout]
    source = write_archives(tmp_path / "source", kind, archives)
    made = make(source)
    assert sorted(set(labels_of(made).values())) == classes
    assert len(made.records) == sum(name.endswith(".png") for files in archives.values() for name in files)
    assert list(inspect(source, 100).classes) == classes


def test_a_table_next_to_zips_that_are_classes_names_their_pictures(
    make: Callable[..., ImageSet], tmp_path: Path
) -> None:
    source = write_archives(tmp_path, "zip", {"cat": pictures("{}.png"), "dog": pictures("{}.png", 2)})
    rows = "".join(f"{n}.png,cup {n}\n" for n in range(4))
    (tmp_path / "captions.csv").write_text("file_name,text\n" + rows)
    made = make(source)
    assert [record["text"] for record in made.records] == [f"cup {n}" for n in range(4)]
    assert list(labels_of(made).values()) == ["cat", "cat", "dog", "dog"]


def parquet(**columns: list[Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def rows_of(*numbers: int) -> bytes:
    return parquet(image=[{"bytes": noise_png(n, (8, 8)), "path": f"{n}.png"} for n in numbers])


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["cat/0.parquet", "dog/0.parquet"], ["cat", "dog"]),
        (["label=cat/day=1/0.parquet", "label=dog/day=2/0.parquet"], ["cat", "dog"]),
        (["day=1/0.parquet", "day=2/0.parquet"], []),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], []),
    ],
)
def test_folders_of_parquet_files_are_labels_if_no_column_is(
    names: list[str], labels: list[str], make: Callable[..., ImageSet]
) -> None:
    made = make({name: rows_of(n) for n, name in enumerate(names)})
    assert list(labels_of(made).values()) == labels
    own = make({name: parquet(image=[noise_png(n, (8, 8))], label=["cup"]) for n, name in enumerate(names)})
    assert set(labels_of(own).values()) == {"cup"}


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (("cats/train-00000-of-00001.parquet", "dogs/train-00000-of-00001.parquet"), "cats/"),
        (("data/cats-train-00000-of-00001.parquet", "data/dogs-train-00000-of-00001.parquet"), "data/cats-*.parquet"),
        (("cats/train/0000.parquet", "dogs/train/0000.parquet"), "cats/"),
    ],
)
def test_configurations_of_the_hub_are_not_mixed(
    names: tuple[str, str], one: str, make: Callable[..., ImageSet], tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "hub", {name: rows_of(n) for n, name in enumerate(names)})
    told = preparation_error(make, source)
    assert "holds 2 configurations of a data set of the Hub" in told
    assert told.endswith(f"give one of them: {source}/{one}")
    assert len(make(f"{source}/{one}").records) == 1


REFUSED: Mapping[str, tuple[bytes, str]] = {
    "lists": (parquet(images=[[{"bytes": b"x", "path": ""}]]), "images holds lists of images; write a row for each"),
    "paths": (parquet(image=[{"bytes": None, "path": "a/0.png"}]), r"holds the paths of images \(a/0.png\) and not"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_parquet_files_without_the_bytes_of_one_image_in_each_row_are_told(kind: str, tmp_path: Path) -> None:
    data, told = REFUSED[kind]
    with pytest.raises(DataError, match=told):
        inspect(write_folder(tmp_path, {"x.parquet": data}), 100)


def test_columns_of_bytes_and_objects_are_told(tmp_path: Path) -> None:
    image = noise_png(0, (8, 8))
    row = parquet(image=[image], mask=[image], label=[{"bytes": image}], text=[{"en": "a cat"}])
    found = inspect(write_folder(tmp_path, {"x.parquet": row}), 100)
    assert found.tables == {"rows": "not used: mask (bytes), label (bytes), text (an object)"}
    assert json.dumps(found.texts) == "[]"
