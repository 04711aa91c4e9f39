"""What `darkroom distil` chooses: the images, the experiment and its steps."""

from pathlib import Path
from typing import Any

import pytest

from training.data.image_set import ImageSet
from training.model.release import Release
from training.planning import distillation as plans
from training.planning.survey import PlanError


def teacher(**lineage: Any) -> Release:
    return Release("bars", "diffusion", {}, (1, 16, 16), (2, 8, 8), {}, lineage=lineage)


def test_the_images_are_found_by_their_fingerprint(bars: ImageSet, bars_root: Path, tmp_path: Path) -> None:
    (tmp_path / "another").mkdir()
    (tmp_path / "some").symlink_to(bars_root)
    taught = teacher(data={"name": "bars", "fingerprint": bars.description.fingerprint})
    assert plans.find_images(taught, None, tmp_path) == str(tmp_path / "some")
    assert plans.find_images(taught, "elsewhere", tmp_path) == str(Path("elsewhere").absolute())
    assert plans.find_images(taught, "s3://bucket/set/", tmp_path) == "s3://bucket/set/"


def test_built_in_sets_are_made_again(tmp_path: Path) -> None:
    assert plans.find_images(teacher(data={"name": "digits", "fingerprint": "ab"}), None, tmp_path) == str(
        tmp_path / "digits"
    )
    assert plans.find_images(teacher(data={"name": "shapes"}), None, tmp_path) == str(tmp_path / "shapes-16")


def test_images_that_are_not_found_are_asked_for(bars_root: Path, tmp_path: Path) -> None:
    (tmp_path / "some").symlink_to(bars_root)
    with pytest.raises(PlanError, match=r"--data: bars was trained on mugs, and no folder in .* holds that set; give"):
        plans.find_images(teacher(data={"name": "mugs", "fingerprint": "ab"}), None, tmp_path)


def test_the_experiment_prepares_the_images_as_the_teacher_s_did(bars_root: Path, tmp_path: Path) -> None:
    data = {
        "name": "mugs",
        "image_size": 16,
        "channels": 1,
        "flip": True,
        "masks": "wide",
        "held_out": 0.1,
        "workers": 4,
    }
    taught = teacher(experiment={"data": data, "optimiser": {"learning_rate": 1e-3}})
    fields = plans.draft(taught, tmp_path / "teacher", str(bars_root), "bars-distilled")
    path = tmp_path / "experiments" / plans.FILE
    plans.write(path, {**fields, "steps": 70}, "bars, 20 minutes")
    config = plans.load(path)
    assert (config.name, config.steps, config.teacher) == ("bars-distilled", 70, str(tmp_path / "teacher"))
    assert (config.data.name, config.data.flip, config.data.masks, config.data.held_out) == ("mugs", True, "wide", 0.1)
    assert config.data.root == str(bars_root)
    assert config.optimiser.learning_rate == pytest.approx(4e-4)
    assert plans.is_written(path, "bars, 20 minutes")
    assert not plans.is_written(path, "bars, 30 minutes")
    assert not plans.is_written(tmp_path / "nowhere.yaml", "bars, 20 minutes")


def test_a_teacher_without_lineage_has_the_images_that_it_makes(bars_root: Path, tmp_path: Path) -> None:
    path = tmp_path / plans.FILE
    plans.write(path, plans.draft(teacher(), tmp_path, str(bars_root), "few"), "bars")
    config = plans.load(path)
    assert (config.data.name, config.data.image_size, config.data.channels) == ("images", 16, 1)
    assert config.optimiser.learning_rate == plans.RATE


def test_on_a_gpu_the_grids_of_a_measured_step_stay_on_the_host_as_in_training() -> None:
    """The recipe chooses rows by them, and pins them: CUDA refuses to pin its own memory."""
    drawn = plans.draw((6, 2, 8, 8), 4, "meta")  # instead of a GPU
    assert {name for name, values in drawn.items() if values.device.type == "cpu"} == {"grid"}
    assert drawn["grid"].tolist() == [0, 1, 2, 3, 0, 1]
    assert {len(values) for values in drawn.values()} == {6}
