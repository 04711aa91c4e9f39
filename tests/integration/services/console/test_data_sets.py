"""Data sets: what releases say of them, and what the folder of training runs holds, for operators."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from services.console.data_sets import COLUMNS, find_set_folders
from tests.support.console import open_console, picture
from tests.support.console_releases import releases_called
from tests.support.stack import Stack
from tests.support.tenants import make_tenant
from training.data.own_images.prepare import Settings, prepare


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of nine pictures of two classes and a file that is none, beside folders that are no sets."""
    root: Path = tmp_path_factory.mktemp("sets")
    for label, numbers in (("<fox>", range(6)), ("owl", range(6, 9))):
        (root / "source" / label).mkdir(parents=True)
        for number in numbers:
            (root / "source" / label / f"{number}.png").write_bytes(picture(number))
    (root / "source" / "owl" / "broken.png").write_bytes(b"no picture")
    settings = Settings(image_size=16, held_out=0.3, max_bad=0.5, name="<animals>")
    prepare(str(root / "source"), root / "runs" / "team" / "set", settings, console=Console(quiet=True))
    for name, document in (("a", "{"), ("b", '{"fingerprint": 1, "count": 1, "train_count": 1, "name": "x"}')):
        (root / "runs" / name).mkdir()
        (root / "runs" / name / "images.json").write_text(document)
        (root / "runs" / name / "images.npy").write_bytes(b"")
    return root / "runs"


def of(root: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((root / "team" / "set" / "images.json").read_text())
    return document


def test_an_operator_sees_a_set_its_splits_what_was_left_out_and_its_releases(stack: Stack, root: Path) -> None:
    data = of(root)
    train, held_out = data["train_count"], data["count"] - data["train_count"]
    assert min(train, held_out) > 0
    with releases_called(stack, "sets-trained", 2, lineage={"data": data}):
        console = open_console(stack, is_operator=True, console_runs=root)
        path = f"/data/{data['fingerprint']}"
        listed = console.get("/data").text
        assert f'href="{path}"' in listed
        assert "2 releases" in listed.split(path)[-1]
        page = console.get(path).text
        for words in (
            "9 images", f"{train} for training", f"{held_out} held out", "16 \u00d7 16 pixels", "&lt;animals&gt;",
            "broken.png", "sets-trained/1", "sets-trained/2", '<dt dir="auto">&lt;fox&gt;</dt><dd>6</dd>',
        ):  # fmt: skip
            assert words in page, words
        assert f'href="{path}"' in console.get("/releases/sets-trained/1").text
        for split, count in (("train", train), ("held_out", held_out)):
            sheet = console.get(f"{path}/{split}.png")
            assert sheet.headers["content-type"] == "image/png"
            with Image.open(io.BytesIO(sheet.content)) as shown:
                assert shown.size == (min(count, COLUMNS) * 16, 16)
        assert console.get(f"{path}/secret.png").status_code == 404


def test_others_see_what_their_releases_say_and_no_images(stack: Stack, root: Path) -> None:
    data = of(root)
    with releases_called(stack, "sets-seen", lineage={"data": data}):
        make_tenant(stack, "sets-tenant", permitted_releases=["sets-seen"])
        make_tenant(stack, "sets-nobody", permitted_releases=["nothing"])
        console = open_console(stack, "sets-tenant", console_runs=root)
        path = f"/data/{data['fingerprint']}"
        assert "sets-seen/1" in (page := console.get(path).text)
        assert "<img" not in page
        assert "team/set" not in page
        assert console.get(f"{path}/train.png").status_code == 404
        stranger = open_console(stack, "sets-nobody", console_runs=root)
        assert stranger.get(path).status_code == 404
        assert "No release that you may see" in stranger.get("/data").text
        assert console.get("/data/..%2F..").status_code in (404, 422)


def test_sets_that_are_damaged_are_shown_without_images(stack: Stack, root: Path, tmp_path: Path) -> None:
    assert [one.name for one in find_set_folders(root)] == ["team/set"]
    description = {"name": "odd", "count": 9, "train_count": 5, "fingerprint": "f" * 64}
    arrays: dict[str, Any] = {"short": np.zeros((2, 4, 4, 3), np.uint8), "floats": np.zeros((9, 4, 4, 3)), "text": None}
    console = open_console(stack, is_operator=True, console_runs=tmp_path)
    for name, array in arrays.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "images.json").write_text(json.dumps({**description, "fingerprint": name}))
        if array is None:
            (tmp_path / name / "images.npy").write_text("x")
        else:
            np.save(tmp_path / name / "images.npy", array)
        assert console.get(f"/data/{name}").status_code == 200
        assert console.get(f"/data/{name}/train.png").status_code == 404
