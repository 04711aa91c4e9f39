"""Images and annotations that cannot be used are counted and named."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
from training.data import image_set
from training.data.image_set import DataError, ImageSet
from training.data.own_images.prepare import Settings, prepare


def test_one_corrupt_picture_among_many_is_left_out_and_named(make: Callable[..., ImageSet]) -> None:
    files = {f"{n:03}.png": noise_png(n) for n in range(150)}
    whole = make({name: data for name, data in files.items() if name != "070.png"})
    made = make(files | {"070.png": noise_png(70)[:-40]})
    assert read_report(made)["bad"] == {
        "truncated": {"count": 1, "first": [{"name": "070.png", "reason": "image file is truncated"}]}
    }
    assert (read_report(made)["found"], read_report(made)["good"]) == (150, 149)
    assert made.description == whole.description


def test_too_many_bad_pictures_are_refused_and_nothing_is_left_half_written(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", {f"{n:02}.png": noise_png(n) for n in range(50)})
    root = tmp_path / "sets/own"
    before = prepare(source, root, Settings(8)).description
    write_folder(
        tmp_path / "source",
        {"07.png": b"", "03.png": noise_png(3)[:-40], "09.png": noise_png(9, (3, 3)), "11.png": b""},
    )
    with pytest.raises(DataError) as caught:
        prepare(source, root, Settings(8))
    listing = root.with_name("own.refused.json")
    assert str(caught.value) == (
        "data.root: 4 of 50 images cannot be used (8 %, permitted: data.max_bad=1 %): 2 empty, 1 tiny, 1 truncated; "
        "the first: 03.png: truncated (image file is truncated). Repair or remove them, or raise data.max_bad; "
        f"more are listed in {listing}"
    )
    assert json.loads(listing.read_text())["bad"]["empty"]["count"] == 2
    assert image_set.read(root).description == before
    assert {path.name for path in root.parent.iterdir()} == {"own", "own.refused.json"}
    assert prepare(source, root, Settings(8, max_bad=0.08)).description.count == 46
    assert {path.name for path in root.parent.iterdir()} == {"own"}


def test_what_metadata_names_and_is_not_there_counts_as_bad(make: Callable[..., ImageSet]) -> None:
    records = [{"file_name": name} for name in ("a.png", "gone.png", "b.heic")]
    files = {"metadata.jsonl": json_lines(*records), "a.png": noise_png(1), "b.heic": b"?"}
    message = preparation_error(make, files)
    assert "2 of 3 images cannot be used (67 %" in message
    assert "1 missing, 1 unsupported; the first: b.heic: unsupported (ends in .heic; images are .png" in message
    bad = read_report(make(files, max_bad=0.9))["bad"]
    assert bad["missing"]["first"][0]["name"] == "gone.png"
    assert "metadata.jsonl:2), but missing" in bad["missing"]["first"][0]["reason"]


@pytest.mark.parametrize(
    ("record", "extra", "reason"),
    [
        ({"boxes": [{"label": "x", "box": [0, 0, 14, 8]}]}, {}, "lies outside the image of 12x8 pixels"),
        ({"boxes": [{"label": "x", "box": [5, 0, 5, 8]}]}, {}, "with x0 < x1"),
        ({"map": "m.png"}, {}, "its map m.png is missing"),
        ({"map": "m.png"}, {"m.png": plane_png(np.zeros((8, 8)))}, "its map m.png is 8x8, the image 12x8 (upright)"),
        ({"map": "m.png"}, {"m.png": noise_png(1)}, "its map m.png is RGB; a map is a grey or palette PNG"),
        ({"mask": "m.png"}, {"m.png": plane_png(np.zeros((8, 8)))}, "its mask m.png is 8x8, the image 12x8"),
        ({"mask": "m.png"}, {"m.png": plane_png(np.ones((8, 12)))}, "nowhere brighter than 1 of 255"),
        (
            {"mask": "m.png"},
            {"m.png": plane_png(np.zeros((8, 12)))},
            "b.png: no mask (has no mask, and others have one)",
        ),
    ],
)
def test_bad_records_and_planes(
    make: Callable[..., ImageSet], record: dict[str, Any], extra: Files, reason: str
) -> None:
    metadata = json_lines({"file_name": "a.png", **record}, {"file_name": "b.png"})
    assert reason in preparation_error(
        make, {"metadata.jsonl": metadata, "a.png": noise_png(1), "b.png": noise_png(2), **extra}
    )


def test_a_turned_picture_has_boxes_and_maps_as_it_is_seen(make: Callable[..., ImageSet]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    boxes = [{"label": "top", "box": [0, 0, 8, 6]}]
    made = make(
        {
            "metadata.jsonl": json_lines({"file_name": "a.png", "boxes": boxes}),
            "a.png": noise_png(1, (12, 8), exif=exif),
            "a.map.png": plane_png(np.zeros((12, 8))),
        }
    )
    assert made.records[0]["boxes"][0]["box"] == [0, 0, 1, 0.5]


def test_sources_without_pictures(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    message = preparation_error(make, {"a.heic": b"", "b.heic": b"", "c": b""})
    assert "holds no images (.png, .jpg," in message
    assert "it holds 2 .heic, 1 no ending (the format of phones: pip install pillow-heif" in message
    assert "holds no images" in preparation_error(make, write_tars(tmp_path / "empty", {}))
    assert "does not exist" in preparation_error(make, str(tmp_path / "nowhere"))
    assert "is not JSON" in preparation_error(make, {"a.png": noise_png(1), "metadata.jsonl": b"{"})


def test_names_have_to_be_unique(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    write_tars(tmp_path / "tars/x", {"a.png": noise_png(1)})
    write_tars(tmp_path / "tars/y", {"./a.png": noise_png(2)})
    message = preparation_error(make, str(tmp_path / "tars/*/*.tar"))
    assert "two files are called a.png: " in message
    assert "x/000.tar: a.png and " in message


def test_links_in_tars_are_bad(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    source = write_tars(tmp_path / "tars", {"a.png": noise_png(1)})
    with tarfile.open(tmp_path / "tars/001.tar", "w") as archive:
        info = tarfile.TarInfo("b.png")
        info.type, info.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(info)
    assert "b.png: link (is a link inside its tar" in preparation_error(make, source)


def test_a_set_does_not_lie_among_its_pictures(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", {"a.png": noise_png(1)})
    for root in (tmp_path / "source", tmp_path / "source/set"):
        with pytest.raises(DataError, match=r"is inside data\.root"):
            prepare(source, root, Settings(8))
    assert prepare(source, tmp_path / "source/.darkroom/set", Settings(8)).description.count == 1
    assert prepare(source, tmp_path / "source/.darkroom/set", Settings(8)).description.count == 1
