"""Mistakes in `darkroom train` are told in one line, before the local stack starts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import call_darkroom


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["one/0.png"], "one/0.png is neither a folder nor a tar"),
        (["one"], "one holds 1 picture; permitted: at least 16"),
        (["many", "--name", "Shoes"], "--name: 'Shoes' is not allowed; permitted: a-z, 0-9, _ and -"),
        (
            ["many", "--condition", "color"],
            "--condition: 'color' is not allowed; permitted: auto, class, caption, none",
        ),
        (["many", "--condition", "class"], "--condition: class is not allowed; the pictures have no labels"),
        (["many", "--size", "4"], "--size: 4 is not allowed; permitted: 8 to 64 pixels, multiples of 4 above 16"),
        (["many", "--from", "./one"], "one: not a release, release.json is missing"),
        (["many", "--from", "nowhere/release"], "--from: 'nowhere/release' is neither a release folder nor a name"),
        (["s3://bucket/prefix/", "--submit", "--from", "./one"], "--from: a cluster cannot read "),
        (["many", "--name", "taken", "--minutes", "0.01"], "experiments/taken cannot be used (File exists)"),
        (["many", "--submit"], "permitted with --submit: s3://BUCKET/PREFIX/"),
        (
            ["many", "--minutes", "0.01"],
            "--minutes: 0.01 is not allowed; permitted for these pic",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, count in (("one", 1), ("many", 20)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "taken").touch()
    monkeypatch.chdir(tmp_path)
    name = [] if "--name" in arguments else ["--name", "shoes"]
    done = call_darkroom(capsys, tmp_path / "stack", "train", *arguments, *name)
    assert done.returncode != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "stack").exists()
