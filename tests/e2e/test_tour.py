"""From training, and from the files of others, to images that the service samples."""

import importlib
import io
import json
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sqlalchemy import text

from tests.support.commands import Darkroom
from tests.support.compvis import write_checkpoint
from tests.support.previews import small_previews
from tests.support.stable_diffusion import SIZE, diffusers_parts, stable_diffusion, write_tokenizer
from tests.support.stack import Stack
from training.metrics import classifier
from training.model.noise import seeded_noise

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # in Lightning
]

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
RUN = ("python -m training.", "darkroom releases ", "darkroom jobs ", "darkroom import ", "darkroom export ")
SMALLER = {
    "training.train": ["steps=2", "batch_size=4", "device=cpu", "pictures_every=9"],
    "training.evaluate": ["--steps", "2", "--images", "40"],
}
CAPTIONS, SEED, STEPS, SCALE = ["A red cat", "cats, " * 20], 11, 5, 7.5


def shown() -> list[str]:
    """The README's commands between starting the stack and stopping it, each on one line."""
    lines = re.findall(r"^    ((?:.*\\\n)*.*)$", README, re.MULTILINE)
    commands = [re.sub(r"\\\n\s*", "", line) for line in lines]
    return [command for command in commands if command.startswith(RUN)]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README calls v1-5.ckpt, and the same model as a folder of diffusers."""
    monkeypatch.chdir(tmp_path)
    vocabulary = write_tokenizer(tmp_path / "tokenizer")
    config, state = stable_diffusion(vocabulary)
    checkpoint, described = write_checkpoint(tmp_path, config, state)
    checkpoint.rename(tmp_path / "v1-5.ckpt")
    described.rename(tmp_path / "v1-inference.yaml")
    pipeline(diffusers_parts(config, state, tmp_path / "tokenizer")).save_pretrained(tmp_path / "stable-diffusion")
    return tmp_path


def pipeline(parts: dict[str, Any]) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, timestep_spacing="leading",
    )  # fmt: skip
    made = StableDiffusionPipeline(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.usefixtures("dispatcher", "worker")
def test_the_readme_leads_from_training_and_from_a_checkpoint_to_images(
    stack: Stack, darkroom_here: Darkroom, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "train", partial(classifier.train, steps=5))
    job = ""
    commands = shown()
    assert len(commands) >= 12
    for command in commands:
        words = shlex.split(command.replace("JOB_ID", job), comments=True)
        if words[0] == "python":
            _, _, module, *arguments = words
            with small_previews():
                assert importlib.import_module(module).main([*arguments, *SMALLER[module]]) == 0, command
            continue
        done = darkroom_here(*words[1:])
        assert done.returncode == 0, (command, done.stderr)
        if words[1:3] == ["jobs", "submit"]:
            job = done.stdout.split()[-1]
    assert len(list((files / "images").rglob("*.png"))) == 16
    (insert,) = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    with stack.engine("submitter").begin() as connection:
        last = connection.exec_driver_sql(insert).scalar_one()
    assert stack.wait(last).state == "succeeded"


@pytest.mark.usefixtures("dispatcher", "worker")
@torch.inference_mode()
def test_images_of_an_imported_pipeline_are_those_of_diffusers(
    stack: Stack, darkroom_here: Darkroom, files: Path
) -> None:
    """Asked for by captions, in SQL. Pixels may differ by the rounding to bytes."""
    from diffusers import StableDiffusionPipeline

    arguments = ["--output", str(files / "release"), "--name", "captioned", "--publish", "--alias", "production"]
    done = darkroom_here("import", "diffusers", str(files / "stable-diffusion"), *arguments)
    assert done.returncode == 0, done.stderr
    request = {
        "items": [{"caption": caption} for caption in CAPTIONS], "seed": SEED, "solver": "ddim", "spacing": "leading",
        "steps": STEPS, "guidance_scale": SCALE,
    }  # fmt: skip
    statement = (
        "INSERT INTO jobs (model, request) VALUES ('captioned@production', CAST(:request AS jsonb)) RETURNING id"
    )
    with stack.engine("submitter").begin() as connection:
        job = connection.scalar(text(statement), {"request": json.dumps(request)})
    assert stack.wait(job).state == "succeeded"
    images = [np.asarray(Image.open(io.BytesIO(body))) for _, body in sorted(stack.images(job).items())]
    theirs = StableDiffusionPipeline.from_pretrained(files / "stable-diffusion", safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    noise = torch.stack([seeded_noise(SEED + i, 0, (4, SIZE, SIZE)) for i in range(len(CAPTIONS))])
    expected = theirs(CAPTIONS, latents=noise, num_inference_steps=STEPS, guidance_scale=SCALE, output_type="np").images
    for image, other in zip(images, expected, strict=True):
        assert other.std() > 0.01, "it is a picture"
        assert np.abs(image - other * 255).max() < 1.0
