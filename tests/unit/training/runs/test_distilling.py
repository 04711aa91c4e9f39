"""A distillation from a release folder to a release folder, for a few steps."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.support.previews import small_previews
from training import train
from training.data.image_set import DataError, ImageSet
from training.experiments import compose
from training.experiments.schema import ExperimentError
from training.experiments.teachers import check_images, check_teacher, load_teacher
from training.model import release
from training.model.conditioners import ClassConditioner
from training.model.latent_diffusion import LatentDiffusion, load_diffusion, save_autoencoder, save_diffusion
from training.model.release import Distilled, ReleaseError
from training.model.sampling import Sampler, generate
from training.recipes.distillation import DistillationRecipe
from training.runs.errors import Interrupted

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning
STEPS = 3


@pytest.fixture(autouse=True, scope="module")
def _small_previews() -> Iterator[None]:
    with small_previews():
        yield


@pytest.fixture
def teacher(latent_diffusion: LatentDiffusion, tmp_path: Path) -> Path:
    """A release of random weights whose classes have names."""
    (field,) = latent_diffusion.conditioners.by_field().values()
    assert isinstance(field, ClassConditioner)
    field.names = ("low", "middle", "high")
    folder = tmp_path / "teacher"
    lineage = {"autoencoder": "ab" * 32}
    save_diffusion(folder, latent_diffusion, name="bars", image_size=16, lineage=lineage)
    return folder


@pytest.fixture
def run(teacher: Path, bars_root: Path, tmp_path: Path) -> Callable[..., Path]:
    file = tmp_path / "distillation.yaml"
    file.write_text(yaml.safe_dump({"defaults": [{"override /data": "images"}, {"override /recipe": "distillation"}]}))

    def run(output: Path, *more: str) -> Path:
        given = [
            "name=bars-distilled", f"teacher={teacher}", f"data.root={bars_root}", "data.image_size=16",
            f"steps={STEPS}", "batch_size=8", "device=cpu", "loss.finest=8", "optimiser.learning_rate=1e-3",
            "pictures_every=100", "data.flip=true", *more,
        ]  # fmt: skip
        return train.run(str(file), given, output)

    return run


def test_the_student_is_a_release_with_all_about_it(run: Callable[..., Path], teacher: Path, tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    model, made = load_diffusion(folder)
    taught = release.read(teacher)
    assert made.distilled == Distilled((1, 2, 4, 8), (1.0, 4.0), 8, 1.5)
    assert made.guided
    assert made.conditions["properties"] == taught.conditions["properties"]
    assert made.lineage["teacher"] == taught.digest
    assert made.lineage["autoencoder"] == "ab" * 32
    assert made.architecture["diffusion"]["parameterisation"] == "v"
    for name in ("autoencoder.safetensors", "conditioners.safetensors"):
        assert (folder / name).read_bytes() == (teacher / name).read_bytes()
    assert (folder / "unet.safetensors").read_bytes() != (teacher / "unet.safetensors").read_bytes()
    assert {"card.md", "samples.png", "denoising.png"} <= set(made.files)
    assert "distilled from bars" in (folder / "card.md").read_text()
    for steps in (1, 8):
        images = generate(
            model, [{"class_label": 1}], [0], latent_shape=made.latent_shape, sampler=Sampler("shortcut", steps)
        )
        assert bool(torch.isfinite(images).all())
    best = release.write_best(folder, 2)
    assert best.distilled is not None
    assert best.distilled.best_steps == 2
    assert release.read(folder).digest == best.digest != made.digest


@contextmanager
def acting_at(step: int, act: Callable[[], None]) -> Iterator[None]:
    """Let something happen to this process at a step."""
    take_step = DistillationRecipe.take_step

    def stopping(self: DistillationRecipe, batch: dict[str, Any], draws: Any) -> Any:
        if self.step == step:
            act()
        return take_step(self, batch, draws)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationRecipe, "take_step", stopping)
        yield


def die() -> None:
    raise RuntimeError("the process dies")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_run_ends_with_the_same_bytes(run: Callable[..., Path], tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with acting_at(2, die), pytest.raises(RuntimeError, match="dies"):
        run(tmp_path / "died", "checkpoint.every_steps=1")
    with acting_at(1, terminate), pytest.raises(Interrupted, match="stopped at step 2 of 3"):
        run(tmp_path / "stopped")
    for name in ("died", "stopped"):
        again = run(tmp_path / name)
        assert (again / "unet.safetensors").read_bytes() == (whole / "unet.safetensors").read_bytes(), name
        assert release.read(again).digest == release.read(whole).digest


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["loss.finest=4"], "loss: finest: 4 is not allowed; permitted: 8, 16, 32"),
        (["loss.guidance_low=2"], "guidance_low, guidance_high: 2, 4 are not allowed"),
        (["initial=x"], "initial: x is not allowed, because a distillation begins with the weights of its teacher"),
        (["data.image_size=32"], "data.image_size: 32; the teacher bars makes images of 1x16x16"),
        (["data.channels=3"], "data.channels: 3; the teacher bars makes images of 1x16x16"),
        (["loss.steps=3"], "loss.steps: there is no such field"),
    ],
)
def test_settings_that_do_not_fit_are_told_at_once(
    more: list[str], message: str, run: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ExperimentError) as error:
        run(tmp_path / "run", *more)
    assert message in str(error.value)


def test_images_of_other_classes_are_refused(teacher: Path, bars: ImageSet) -> None:
    description = release.read(teacher)
    description.architecture["conditioners"]["class_label"]["classes"] = 7
    data = compose.data(["data=images", "data.root=x", "data.image_size=16", "data.channels=1"])
    with pytest.raises(DataError, match="class_label: the images have 3 classes; the teacher bars has 7"):
        check_images(data, description, bars)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            ("high", "low", "middle"),
            "class_label: class 0 of the images is 'high'; of the teacher bars, 'low'; prepare the images with "
            "data.classes, the classes of the teacher bars in their order",
        ),
        (("low", "middle", "top"), "class_label: class 2 of the images is 'top'; of the teacher bars, 'high'"),
        (
            ("high", "low"),
            "class_label: the images have 2 classes; the teacher bars has 3; prepare the images with data.classes, "
            "the classes of the teacher bars in their order",
        ),
    ],
)
def test_as_many_classes_of_other_names_or_in_another_order_are_refused(
    classes: tuple[str, ...], message: str, teacher: Path, bars: ImageSet
) -> None:
    data = compose.data(["data=images", "data.root=x", "data.image_size=16", "data.channels=1"])
    with pytest.raises(DataError) as error:
        check_images(data, release.read(teacher), replace(bars, description=replace(bars.description, classes=classes)))
    assert str(error.value) == f"data.root: {message}"


def test_a_distilled_release_is_not_distilled_again(teacher: Path) -> None:
    description = release.read(teacher)
    field = Distilled((1,), (1, 2), 1, 1).to_json()
    distilled = replace(description, conditions={**description.conditions, "distilled": field})
    with pytest.raises(ExperimentError, match="teacher: bars is distilled already; distil the release that it was"):
        check_teacher(distilled)


def test_a_teacher_without_a_null_condition_is_refused(latent_diffusion: LatentDiffusion, tmp_path: Path) -> None:
    save_diffusion(tmp_path / "teacher", latent_diffusion, name="bars", image_size=16, guided=False)
    with pytest.raises(ExperimentError, match="teacher: bars has no null condition"):
        check_teacher(release.read(tmp_path / "teacher"))


def test_a_first_stage_is_refused(latent_diffusion: LatentDiffusion, tmp_path: Path) -> None:
    save_autoencoder(tmp_path / "first", latent_diffusion.autoencoder, name="first", image_size=16)
    with pytest.raises(ExperimentError, match="teacher: first is an autoencoder; permitted: a diffusion release"):
        check_teacher(release.read(tmp_path / "first"))


def test_eps_with_zero_terminal_snr_is_refused(teacher: Path) -> None:
    description = release.read(teacher)
    diffusion = {**description.architecture["diffusion"], "zero_terminal_snr": True}
    with pytest.raises(ExperimentError, match="teacher: bars predicts eps with zero terminal SNR"):
        check_teacher(replace(description, architecture={**description.architecture, "diffusion": diffusion}))


def test_weights_that_are_not_finite_are_refused(latent_diffusion: LatentDiffusion, tmp_path: Path) -> None:
    with torch.no_grad():
        next(latent_diffusion.unet.parameters())[0] = torch.nan
    save_diffusion(tmp_path / "teacher", latent_diffusion, name="bars", image_size=16)
    with pytest.raises(ExperimentError, match=r"teacher: bars: unet\.time\.0\.weight has NaN or infinite values"):
        load_teacher(tmp_path / "teacher")


def test_a_release_that_is_not_distilled_has_no_best_setting(teacher: Path) -> None:
    with pytest.raises(ReleaseError, match="not distilled"):
        release.write_best(teacher, 4)
