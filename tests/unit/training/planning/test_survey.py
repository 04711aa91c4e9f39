"""What pictures offer a training, and which are refused before time is spent."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.own_images.inspection import inspect
from training.planning.models import data_fields
from training.planning.survey import PlanError, choose_condition, describe_no_condition, survey


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
        (["1.png"], {}, "holds 1 picture; permitted: at least 16"),
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


def test_pictures_of_which_many_cannot_be_used_are_refused_with_the_reasons(tmp_path):
    root = write_pictures(tmp_path, [f"{n:02}.png" for n in range(40)])
    for number in range(10):
        path = root / f"{number:02}.png"
        path.write_bytes(path.read_bytes()[:60] if number < 7 else b"")
    with pytest.raises(PlanError) as error:
        survey(inspect(str(root), 512))
    assert str(error.value) == (
        "PICTURES: 10 of 40 pictures that were looked at cannot be used (7 truncated, 3 empty; the first: 00.png); "
        "permitted: 20 %. Repair or remove them"
    )
    for number in range(40):
        (root / f"{number:02}.txt").write_bytes("ein süßer Hund".encode("cp1252"))
    with pytest.raises(PlanError, match=r"40 of 40 pictures .* \(.*30 a caption that is not UTF-8"):
        survey(inspect(str(root), 512))


def test_some_unusable_pictures_are_permitted_in_the_experiments(tmp_path):
    root = write_pictures(tmp_path, [f"{n:02}.png" for n in range(40)])
    found = survey(inspect(str(root), 512))
    assert (found.bad, found.max_bad) == (0, 0.05)
    for number in range(6):
        (root / f"{number:02}.png").write_bytes(b"")
    found = survey(inspect(str(root), 512))
    assert (found.bad, found.max_bad) == (0.15, 0.3)
    assert data_fields(found, 32, str(root))["max_bad"] == 0.3


def test_pictures_of_one_flat_colour_are_copies(tmp_path):
    for number in range(40):
        Image.new("RGB", (32, 32), (10 * (number % 3), 0, 0)).save(tmp_path / f"{number}.png")
    with pytest.raises(PlanError, match="of 40 pictures that were looked at, only 3 differ"):
        survey(inspect(str(tmp_path), 512))


def test_a_set_that_is_all_held_out_is_refused(tmp_path):
    root = write_pictures(tmp_path, [f"{n}.png" for n in range(20)])
    (root / "metadata.csv").write_text("file_name,split\n" + "".join(f"{n}.png,test\n" for n in range(20)))
    with pytest.raises(PlanError, match="every picture's split is held out; some must be for training"):
        survey(inspect(str(root), 512))


def test_why_there_is_no_condition_is_told(tmp_path):
    found = survey(inspect(str(write_pictures(tmp_path, in_classes(1, *(f"c{n}" for n in range(20))))), 512))
    assert choose_condition(found, "auto") == "none"
    assert describe_no_condition(found) == (
        "0 % of the pictures have a caption, and 80 % must; "
        "the pictures have 20 classes for 20 pictures, and 100 % have one, but classes need two pictures on average"
    )


def test_empty_caption_files_are_no_condition(tmp_path):
    root = write_pictures(tmp_path, [f"{n}.png" for n in range(20)])
    for path in root.glob("*.png"):
        path.with_suffix(".txt").touch()
    assert choose_condition(survey(inspect(str(root), 512)), "auto") == "none"
