"""Layouts of well-known sets and tools, and files that are not pictures: read as meant, or told."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.own_images import (
    Files,
    json_lines,
    noise_png,
    preparation_error,
    read_report,
    write_folder,
    write_tars,
)
from training.data.image_set import DataError, ImageSet
from training.data.own_images.inspection import Inspection, inspect
from training.data.own_images.looks import odd_ones

PICTURES: Files = {f"{n}.png": noise_png(n) for n in range(4)}

ARRAYS = "arrays: write each picture as a PNG, in a folder of its class"


def inspected(root: Path, files: Files) -> Inspection:
    return inspect(write_folder(root / "pictures", files), 100)


def test_the_partitions_of_celeba_are_splits_and_the_name_of_their_table_is_none(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,{n % 3}\n" for n in range(4))
    found = inspected(tmp_path, PICTURES | {"list_eval_partition.csv": f"image_id,partition\n{rows}".encode()})
    assert found.splits == {"train": 2, "held_out": 2}
    found = inspected(tmp_path / "words", PICTURES | {"test_folds.csv": b"image,split\n0.png,fold1\n1.png,fold2\n"})
    assert found.splits == {}


def test_the_name_of_a_class_takes_precedence_over_its_number(make: Callable[..., ImageSet]) -> None:
    rows = "".join(f"{n}.png,{n % 2},{'cat' if n % 2 else 'dog'}\n" for n in range(4))
    made = make(PICTURES | {"labels.csv": f"filename,label,label_name\n{rows}".encode()})
    assert made.description.classes == ("cat", "dog")
    assert [record["label"] for record in made.records] == [1, 0, 1, 0]


@pytest.mark.parametrize("tags", ["cat, grey", ["cat", "grey"]])
def test_tags_are_captions_also_in_the_tables_of_kohyas_scripts(
    tags: str | list[str], make: Callable[..., ImageSet]
) -> None:
    table = {f"{n}": {"tags": tags} for n in range(3)} | {"3": {"tags": tags, "caption": "a dog"}}
    made = make(PICTURES | {"meta_cap.json": json.dumps(table).encode()})
    assert [record["text"] for record in made.records] == ["cat, grey", "cat, grey", "cat, grey", "a dog"]


@pytest.mark.parametrize(("labels", "classes"), [(None, ()), ([["00000/0.png", 3]], ("3",))])
def test_folders_of_a_thousand_are_no_labels_where_dataset_json_has_none(
    labels: list[list[object]] | None, classes: tuple[str, ...], tmp_path: Path, make: Callable[..., ImageSet]
) -> None:
    files = {f"0000{n}/{n}.png": noise_png(n) for n in range(2)}
    files["dataset.json"] = json.dumps({"labels": labels}).encode()
    assert make(files).description.classes == classes
    assert tuple(inspected(tmp_path, files).classes) == classes


def test_several_labels_of_a_picture_are_told(tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.png", "labels": ["cat", "dog"], "source": "x"} for n in range(4)]
    found = inspected(tmp_path, PICTURES | {"metadata.jsonl": json_lines(*rows)})
    assert found.classes == {}
    assert found.tables == {"metadata.jsonl": "4 rows; not used: labels (several labels), source"}


def test_columns_of_parquet_of_which_nothing_is_read_are_told(tmp_path: Path) -> None:
    cells = [{"bytes": noise_png(n), "path": None} for n in range(4)]
    names = {"info": {"features": {"fine": {"_type": "ClassLabel", "names": ["a", "b"]}}}}
    table = pa.table({"image": cells, "fine": [0, 1, 0, 1], "coarse": [0] * 4, "after": cells, "text": ["t"] * 4})
    (tmp_path / "set").mkdir()
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "set/x.parquet")
    found = inspect(str(tmp_path / "set"), 100)
    assert (found.images, found.with_text, found.classes) == (4, 4, {"a": 2, "b": 2})
    assert found.tables == {"rows": "not used: coarse, after (bytes)"}


def test_a_tar_beside_its_unpacked_folders_is_not_read_alone(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{kind}/{n}.png": noise_png(n) for kind in "ab" for n in range(2)})
    write_tars(tmp_path, {"a/0.png": noise_png(0)})
    with pytest.raises(DataError, match=r"holds both tars \(000\.tar\) and images \(a/0\.png\); keep them apart"):
        inspect(str(tmp_path), 100)


def test_archives_with_the_same_names_are_told_what_to_do(tmp_path: Path, make: Callable[..., ImageSet]) -> None:
    for name in ("pets-1", "pets-2"):
        Path(write_tars(tmp_path / name, {"0.png": noise_png(0)}), "000.tar").rename(tmp_path / f"{name}.tar")
        (tmp_path / name).rmdir()
    told = "names must be unique; of archives, unpack each into a folder of its own, which may be the label"
    assert told in preparation_error(make, str(tmp_path))
    with pytest.raises(DataError, match=told):
        inspect(str(tmp_path), 100)


@pytest.mark.parametrize(
    ("name", "ending", "advice"),
    [
        ("cifar-10-batches-py/data_batch_1", "no ending", ARRAYS),
        ("train_32x32.mat", ".mat", ARRAYS),
        ("x.tfrecord-00000-of-00002", ".tfrecord-00000-of-00002", ARRAYS),
        ("data-00000-of-00001.arrow", ".arrow", "write it as parquet, datasets.load_from_disk(FOLDER)"),
        ("x.tar.zst", ".zst", "an archive: unpack it, and give the folder"),
        ("clip.mov", ".mov", "a video: write its frames, ffmpeg -i VIDEO -r 1 %06d.png"),
        ("scan.nii.gz", ".gz", "scans: convert them to PNG"),
        ("pets.zip.001", ".001", "a part of an archive: join the parts, unpack them, and give the folder"),
        ("a.jxl", ".jxl", "convert it to PNG"),
    ],
)  # fmt: skip
def test_sets_in_other_formats_are_told_what_to_do(
    name: str, ending: str, advice: str, tmp_path: Path, make: Callable[..., ImageSet]
) -> None:
    message = preparation_error(make, {name: b"\x80\x04."})
    assert f"it holds 1 {ending} ({advice}" in message
    (reason,) = inspected(tmp_path, {name: b"\x80\x04."}).left_out
    assert reason.startswith(f"not read: {ending} ({advice}")


def test_a_table_of_pixels_is_told_with_its_first_columns(tmp_path: Path) -> None:
    header = ",".join(["label", *(f"pixel{n}" for n in range(784))])
    found = inspected(tmp_path, {"train.csv": f"{header}\n{','.join(['0'] * 785)}\n".encode()})
    assert found.images == 0
    assert "pixel10 and 773 more; one that names images is file_name" in found.tables["train.csv"]


def test_pointers_of_git_lfs_and_web_pages_are_told(make: Callable[..., ImageSet]) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"
    made = make(PICTURES | {"x.png": pointer, "y.jpg": b"\n<!DOCTYPE html><html>404</html>"}, max_bad=0.5)
    bad = read_report(made)["bad"]
    assert bad["a pointer of Git LFS"]["first"][0]["reason"] == "is a pointer of Git LFS: run git lfs pull"
    assert bad["a web page"]["first"][0]["name"] == "y.jpg"


def test_other_formats_under_the_name_of_a_picture_are_told(make: Callable[..., ImageSet]) -> None:
    files = {"jxl.jpg": b"\xff\x0a.", "svg.png": b'<?xml version="1.0"?>\n<svg width="9">', "pdf.jpg": b"%PDF-1.7"}
    bad = read_report(make(PICTURES | files, max_bad=0.8))["bad"]
    assert [one["reason"] for one in bad["unsupported"]["first"]] == [
        "is JPEG XL: convert it to PNG", *["is SVG, PSD or PDF: convert it to PNG"] * 2
    ]  # fmt: skip


def test_twelve_bits_that_are_stored_as_sixteen_are_odd(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (12, 12)).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    found = inspected(tmp_path, PICTURES | {"scan.png": file.getvalue()})
    assert odd_ones(found.looks, {}, {})["nearly black, like 12 bits stored as 16"] == ["scan.png"]


def test_recycle_bins_of_network_disks_are_not_read(tmp_path: Path) -> None:
    files = {f"{kind}/0.png": noise_png(n) for n, kind in enumerate(("a", "b", "#recycle", "@Recycle"))}
    assert inspected(tmp_path, files).classes == {"a": 1, "b": 1}


@pytest.mark.parametrize("archive", ["zip", "tar"])
def test_a_table_beside_archives_is_read(archive: str, tmp_path: Path, make: Callable[..., ImageSet]) -> None:
    """As the competitions of Kaggle are downloaded: train.zip, test.zip and train.csv."""
    for split, numbers in (("train", (0, 1)), ("test", (2, 3))):
        pictures = {f"{split}/{n}.png": noise_png(n) for n in numbers}
        if archive == "tar":
            Path(write_tars(tmp_path / "scratch", pictures), "000.tar").rename(tmp_path / f"{split}.tar")
            (tmp_path / "scratch").rmdir()
        else:
            with zipfile.ZipFile(tmp_path / f"{split}.zip", "w") as file:
                for name, data in pictures.items():
                    file.writestr(name, data)
    (tmp_path / "train.csv").write_text("id,label\n0,cat\n1,dog\n")
    found = inspect(str(tmp_path), 100)
    assert (found.images, found.classes, found.splits) == (4, {"cat": 1, "dog": 1}, {"train": 2, "held_out": 2})
    assert found.tables == {"train.csv": "2 rows"}
    made = make(str(tmp_path))
    assert made.description.classes == ("cat", "dog")
    assert made.description.train_count == 2
    assert "label" not in made.records[2]


def test_a_pattern_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a stack trace."""
    write_folder(tmp_path, {"sets/labels.csv": b"image,label\n0.png,cat\n"})
    for name in ("a", "b"):
        with zipfile.ZipFile(tmp_path / f"sets/{name}.zip", "w") as file:
            file.writestr(f"{name}/{'01'[name == 'b']}.png", noise_png(0))
    monkeypatch.setenv("HOME", str(tmp_path))
    found = inspect("~/sets/*", 100)
    assert (found.images, found.classes, list(found.tables)) == (2, {"cat": 1}, ["sets/labels.csv"])


def test_json_lines_may_be_called_json(make: Callable[..., ImageSet]) -> None:
    made = make(PICTURES | {"metadata.json": json_lines({"file_name": "0.png", "text": "a"}, {"file_name": "1.png"})})
    assert [record.get("text") for record in made.records] == ["a", None]


def test_a_test_folder_is_held_out_where_a_table_speaks_of_training_alone(make: Callable[..., ImageSet]) -> None:
    """Its pictures were trained on: train.csv means a split, and was taken for the only one."""
    files = {f"train/{n}.png": noise_png(n) for n in (0, 1)} | {f"test/{n}.png": noise_png(n) for n in (2, 3)}
    made = make(files | {"train.csv": b"id,label\n0,cat\n1,dog\n"})
    assert [record["name"] for record in made.records] == ["train/0.png", "train/1.png", "test/2.png", "test/3.png"]
    assert made.description.train_count == 2


def test_a_form_for_the_answers_of_a_competition_has_no_labels(tmp_path: Path) -> None:
    forms = {"train.csv": b"id,label\n0,cat\n1,dog\n", "sample_submission.csv": b"id,label\n2,emu\n3,emu\n"}
    found = inspected(tmp_path, PICTURES | forms)
    assert found.classes == {"cat": 1, "dog": 1}
    assert found.tables["sample_submission.csv"].startswith("is a form for answers to a competition")


def test_a_table_that_was_taken_out_of_its_zip_is_read_once(tmp_path: Path, make: Callable[..., ImageSet]) -> None:
    table = b"image,label\n0.png,cat\n1.png,dog\n"
    (pets := tmp_path / "pets").mkdir()
    with zipfile.ZipFile(pets / "pictures.zip", "w") as file:
        for name, data in {"0.png": noise_png(0), "1.png": noise_png(1), "labels.csv": table}.items():
            file.writestr(name, data)
    (pets / "labels.csv").write_bytes(table)
    assert make(str(pets)).description.classes == ("cat", "dog")
    assert inspect(str(pets), 100).tables == {"labels.csv": "2 rows"}
