"""What pictures offer a training, and which are refused before time is spent."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.own_images.inspection import inspect
from training.planning.survey import PlanError, choose_condition, survey


def write_pictures(root: Path, names: list[str], *, side: int = 32, copies: bool = False) -> Path:
    """Write colour pictures of different shapes, or copies of one."""
    for number, name in enumerate(names):
        pixels = np.random.default_rng(0 if copies else number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST).save(path)
    return root


def in_classes(count: int, *classes: str) -> list[str]:
    return [f"{label}/{number}.png" for label in classes for number in range(count)]


def test_pictures_in_class_folders_are_conditioned_on_their_class(tmp_path):
    found = survey(inspect(str(write_pictures(tmp_path, in_classes(12, "boot", "shoe"))), 512))
    assert (found.images, found.side, found.same_size, found.channels) == (24, 32, True, 3)
    assert choose_condition(found, "auto") == "class"
    assert found.held_out == pytest.approx(0.2)


def test_captions_come_before_classes_unless_told_otherwise(tmp_path):
    root = write_pictures(tmp_path, in_classes(12, "boot", "shoe"))
    for path in root.rglob("*.png"):
        path.with_suffix(".txt").write_text(f"picture {path.stem}")
    found = survey(inspect(str(root), 512))
    assert choose_condition(found, "auto") == "caption"
    assert choose_condition(found, "class") == "class"


@pytest.mark.parametrize(
    ("wanted", "why"),
    [("class", "the pictures have no labels"), ("caption", "0 % of the pictures have a caption, and 80 % must")],
)
def test_a_condition_that_the_pictures_lack_is_refused(tmp_path, wanted, why):
    found = survey(inspect(str(write_pictures(tmp_path, [f"{n}.png" for n in range(20)])), 512))
    assert choose_condition(found, "auto") == "none"
    with pytest.raises(PlanError) as error:
        choose_condition(found, wanted)
    assert str(error.value) == f"--condition: {wanted} is not allowed; {why}; permitted: none"


def test_one_class_is_no_condition(tmp_path):
    root = write_pictures(tmp_path, in_classes(20, "shoe"))
    assert choose_condition(survey(inspect(str(root), 512)), "auto") == "none"


@pytest.mark.parametrize(
    ("names", "more", "why"),
    [
        (["1.png"], {}, "holds 1 pictures; permitted: at least 16"),
        ([f"{n}.png" for n in range(40)], {"copies": True}, "of 40 pictures that were looked at, only 1 differ"),
        ([f"{n}.png" for n in range(20)], {"side": 4}, "the median shorter side is 4 pixels; permitted: at least 8"),
    ],
)
def test_pictures_that_no_training_can_use_are_refused(tmp_path, names, more, why):
    with pytest.raises(PlanError, match=why):
        survey(inspect(str(write_pictures(tmp_path, names, **more)), 512))


def test_files_that_are_no_pictures_are_named_where_too_few_are_left(tmp_path):
    root = write_pictures(tmp_path, ["1.png", "2.png"])
    for number in range(3):
        (root / f"{number}.psd").write_bytes(b"8BPS")
    with pytest.raises(PlanError, match=r"holds 2 pictures.*Left out: 3 not read: \.psd"):
        survey(inspect(str(root), 512))
