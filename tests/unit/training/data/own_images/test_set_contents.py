"""The set is the same from every source, with its labels, captions, boxes, maps and masks."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.own_images import (
    ANNOTATED,
    RECORDS,
    json_lines,
    noise_png,
    plane_png,
    preparation_error,
    read_report,
    write_tars,
)
from training.data.image_set import ImageSet

EMOJI = Path(__file__).parents[5].parent / "shared/data/emoji-64"


def test_what_a_set_holds(make: Callable[..., ImageSet]) -> None:
    made = make(ANNOTATED, name="pets")

    assert [record["name"] for record in made.records] == ["a.png", "sub/b.png", "sub/c.png"]
    assert [record["text"] for record in made.records] == ["first", "second", "third"]
    assert made.labels([0, 1, 2]).tolist() == [0, 1, 0]
    assert made.description.classes == ("cat", "dog")
    assert made.description.box_classes == ("ear",)
    assert made.description.map_classes == tuple(map(str, range(10)))
    assert made.records[0]["boxes"] == [{"box": [0, 0, 0.5, 1], "class": 0}]
    assert made.records[1]["boxes"] == [], "less than a quarter of the tail is in the crop"
    assert "boxes" not in made.records[2]
    for row, number in enumerate((1, 2, 3)):
        original = np.asarray(Image.open(io.BytesIO(noise_png(number))))
        assert np.array_equal(made.images[row], original[:, 2:10])
    assert made.maps is not None
    assert made.maps[0, 0].tolist() == [1, 1, 2, 2, 2, 2, 3, 3]
    assert made.maps[1].min() == 9
    assert made.masks is not None
    assert [int(mask.max()) for mask in made.masks] == [255, 0, 0]
    assert (made.description.name, made.image_size, made.channels) == ("pets", 8, 3)
    report = read_report(made)
    assert (report["found"], report["good"], report["dropped_objects"]) == (3, 3, 1)
    assert report["not_listed"] == {"count": 1, "first": ["sub/d.png"]}
    assert report["classes"] == {"cat": 2, "dog": 1}
    assert report["sizes"]["width"] == {"min": 12, "median": 12, "max": 12}


def test_a_folder_and_tars_in_any_order_make_the_same_set(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    of_folder = make(ANNOTATED).description
    assert make(write_tars(tmp_path / "one", ANNOTATED)).description == of_folder
    for seed in range(4):
        assert make(write_tars(tmp_path / f"shuffled-{seed}", ANNOTATED, 1 + seed, seed)).description == of_folder
    beside = write_tars(
        tmp_path / "beside", {name: data for name, data in ANNOTATED.items() if name != "metadata.jsonl"}, 2
    )
    (Path(beside) / "metadata.jsonl").write_bytes(ANNOTATED["metadata.jsonl"])
    assert make(beside).description == of_folder


def test_the_files_of_a_set_are_the_same_bytes(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    roots = [
        Path(made.images.filename).parent  # type: ignore[attr-defined]
        for made in (make(ANNOTATED), make(write_tars(tmp_path / "tars", ANNOTATED, 3, 5)))
    ]
    for name in ("images.npy", "maps.npy", "masks.npy", "records.jsonl", "images.json", "report.json"):
        assert (roots[0] / name).read_bytes() == (roots[1] / name).read_bytes(), name


def test_webdataset_members_make_the_same_set_as_metadata(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    """Given the same images with json, txt and cls members, then the records are the same."""
    pictures = {name: data for name, data in ANNOTATED.items() if name not in ("metadata.jsonl", "sub/d.png")}
    members = {
        "a.json": json.dumps({"boxes": RECORDS[0]["boxes"], "label": "cat"}).encode(),
        "a.txt": b"first\n",
        "sub/b.json": json.dumps({"boxes": RECORDS[1]["boxes"]}).encode(),
        "sub/b.txt": b"second",
        "sub/b.cls": b"dog",
        "sub/c.json": json.dumps({"text": "third", "label": "cat"}).encode(),
    }
    of_tar = make(write_tars(tmp_path / "tars", pictures | members, 2, 1))
    assert of_tar.description == make(ANNOTATED).description
    assert make(pictures | members).description == of_tar.description


def test_maps_under_other_names_have_to_be_announced(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    record = {"file_name": "a.png", "map": "maps/a.png", "mask": "masks/a.png"}
    announced = {
        "metadata.jsonl": json_lines(record),
        "maps/a.png": plane_png(np.full((8, 12), 7)),
        "masks/a.png": plane_png(np.full((8, 12), 255)),
        "a.png": noise_png(1),
    }
    made = make(announced)
    assert made.maps is not None
    assert made.maps.max() == 7
    assert make(write_tars(tmp_path / "first", announced)).description == made.description
    late = dict(reversed(announced.items()))
    assert make(late).description == made.description
    message = preparation_error(make, write_tars(tmp_path / "last", late))
    assert "maps/a.png came before the metadata that calls it a map; put metadata.jsonl first" in message


def test_sub_folders_are_labels_and_text_files_captions(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    files = {"dog/1.png": noise_png(1), "cat/1.jpg": noise_png(2), "cat/2.png": noise_png(3), "cat/2.txt": b" sits \n"}
    made = make(files)
    assert made.description.classes == ("cat", "dog")
    assert made.labels([0, 1, 2]).tolist() == [0, 0, 1]
    assert [record.get("text") for record in made.records] == [None, "sits", None]
    assert (read_report(made)["without_text"], read_report(made)["without_label"]) == (2, 0)
    assert make(write_tars(tmp_path / "tars", files, 2, 3)).description == made.description
    assert make({"images/1.png": noise_png(1), "images/2.png": noise_png(2)}).description.classes == ()


def test_labels_that_are_numbers(make: Callable[..., ImageSet]) -> None:
    made = make({"a.png": noise_png(1), "a.cls": b"10", "b.png": noise_png(2), "b.cls": b"9\n"})
    assert made.description.classes == ("9", "10")
    assert made.labels([0, 1]).tolist() == [1, 0]
    assert "labels mix numbers (a.png: 10) and names" in preparation_error(
        make, {"a.png": noise_png(1), "a.cls": b"10", "b.png": noise_png(2), "b.cls": b"nine"}
    )


def test_grey_sets(make: Callable[..., ImageSet]) -> None:
    made = make({"a.png": noise_png(1)}, channels=1)
    assert made.images.shape == (1, 8, 8, 1)
    assert read_report(made)["converted"] == {"colour": 1}


@pytest.mark.skipif(not EMOJI.is_dir(), reason=f"{EMOJI} is missing")
def test_nineteen_hundred_emoji(make: Callable[..., ImageSet]) -> None:
    made = make(str(EMOJI), image_size=64, held_out=0.05)
    assert (read_report(made)["found"], read_report(made)["good"], read_report(made)["bad"]) == (1906, 1906, {})
    assert len(made.description.classes) == 9
    assert 60 <= len(made.rows("held_out")) <= 130
    assert (read_report(made)["without_text"], read_report(made)["without_label"]) == (0, 0)
    assert np.asarray(made.images[:, 0, 0]).mean() > 150, "what is clear around an emoji is white"
