"""`darkroom pictures inspect`, as a person reads it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from services.cli.pictures import inspect
from services.errors import CommandError
from tests.support.commands import call_darkroom
from tests.support.own_images import noise_png, write_folder
from training.previews.inspection_sheet import plain

NAMES = ["train/Cat/0.png", "train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "val/bird/4.png"]


def test_what_a_person_should_know_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: noise_png(number % 3, (64, 64)) for number, name in enumerate(NAMES)}
    source = write_folder(tmp_path / "pets", files | {"notes.csv": b"a,b\n1,2"})
    sheet = tmp_path / "sheet.png"
    done = call_darkroom(capsys, tmp_path / "stack", "pictures", "inspect", source, "--sheet", str(sheet))
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.replace("│", " ").split())
    assert "classes alike 2 'Cat', 'cat' differ in upper case or spaces alone" in told
    assert "classes held out 1 never trained on: bird" in told
    assert "near duplicates 2 2 of one that is held out and one that is trained on; " in told
    assert "table notes.csv has the columns a, b; one that names images is file_name, " in told
    with Image.open(sheet) as image:
        assert image.size == (1200, 950)
    summary = json.loads(call_darkroom(capsys, tmp_path / "stack", "pictures", "inspect", source, "--json").stdout)
    assert (summary["classes_held_out"], summary["near_duplicates_held_out"]) == (["bird"], 2)


def test_the_sheet_has_the_scripts_of_its_font() -> None:
    assert plain("Сапог Stiefel μπότα 靴 $") == r"Сапог Stiefel μπότα ? \$"


def test_a_missing_folder_is_named_as_the_argument(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"^PICTURES: .*/nothing does not exist$"):
        inspect(str(tmp_path / "nothing"))
