"""A plan as a whole: it is measured, written, read again, and its files can be edited."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.own_images.inspection import inspect
from training.experiments import compose
from training.experiments.schema import DiffusionExperiment
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.planning import plan as plans
from training.planning.budget import Machine, Start
from training.planning.first_stages import Published
from training.planning.plan import Options, Plan
from training.planning.survey import PlanError, survey

MACHINE = Machine("cpu", 0.001, Start(0.1, 0.2), lambda: 0.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures, of two classes")
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        path = root / ("boot" if number % 2 else "shoe") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def made(pictures: Path) -> tuple[Plan, dict]:
    inspection = inspect(str(pictures), 512)
    options = Options(str(pictures), "shoes", 200)
    return plans.make(survey(inspection), inspection, options, "stamp", MACHINE)


def test_a_plan_is_written_as_experiments_that_run_by_hand(made, tmp_path):
    plan, experiments = made
    plans.write(tmp_path, plan, experiments)
    first = compose.load(str(tmp_path / "autoencoder.yaml"))
    second = compose.load(str(tmp_path / "diffusion.yaml"), ["autoencoder=x"])
    assert (first.data.root, first.data.image_size, first.data.channels) == (plan.options.source, 8, 1)
    assert second.batch_size <= 19  # the pictures that are not held out
    assert second.steps == plan.second_steps > 200
    assert isinstance(second, DiffusionExperiment)
    assert set(second.model.conditioners) == {"class_label"}


def test_a_plan_is_used_again_for_the_same_pictures_and_options(made, tmp_path):
    plan, experiments = made
    plans.write(tmp_path, plan, experiments)
    again = Plan.read(tmp_path)
    assert again is not None
    assert again == plan
    assert again.fits(plan.options, "stamp")
    assert not again.fits(plan.options, "another stamp")
    assert not again.fits(replace(plan.options, minutes=5), "stamp")
    assert plans.are_written(tmp_path, plan)


def test_files_that_were_edited_are_known(made, tmp_path):
    plans.write(tmp_path, *made)
    assert not plans.are_edited(tmp_path)
    (tmp_path / "diffusion.yaml").write_text("steps: 3\n")
    assert plans.are_edited(tmp_path)


def test_a_time_that_is_too_short_is_refused_with_the_least(pictures):
    inspection = inspect(str(pictures), 512)
    options = Options(str(pictures), "shoes", 0.1)
    with pytest.raises(PlanError, match=r"--minutes: 0\.1 is not allowed; permitted .* at least \d+"):
        plans.make(survey(inspection), inspection, options, "stamp", MACHINE)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(made, tmp_path):
    plan = replace(made[0], size=4096)
    with pytest.raises(PlanError, match=r"the disk of .* GB free; this training needs .* GB"):
        plans.check_disk(tmp_path, plan, 10**9)
    plans.check_disk(tmp_path, made[0], 24)
    plans.check_disk(tmp_path / "stack" / "not yet there", made[0], 24)


def test_a_published_first_stage_leaves_its_time_to_the_second(pictures, made, tmp_path):
    inspection = inspect(str(pictures), 512)
    options = Options(str(pictures), "shoes", 200, size=16)
    autoencoder = Autoencoder(AutoencoderConfig(image_channels=1, latent_channels=3, channels=32, multipliers=(1, 1)))
    published = Published("first@3", autoencoder, 31.0)
    plan, experiments = plans.make(survey(inspection), inspection, options, "stamp", MACHINE, published)
    assert (plan.first_stage, plan.variant, made[0].variant) == ("first@3", "diffusion", "full")
    assert set(experiments) == {"diffusion.yaml"}
    assert experiments["diffusion.yaml"]["model"]["unet"]["in_channels"] == 3
    assert "train-autoencoder" not in plan.seconds
    given = plans.arguments(plan, tmp_path)
    assert "autoencoder=first@3" in given
    assert not any(one.startswith("autoencoder_experiment=") for one in given)
    plans.write(tmp_path, plan, experiments)
    assert plans.are_written(tmp_path, plan)
    assert Plan.read(tmp_path) == plan
