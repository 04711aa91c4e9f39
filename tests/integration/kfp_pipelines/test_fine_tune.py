"""`darkroom train --from`: the release that it opens, and the stages of the pipeline `fine-tune`.

The pictures are of nine of the ten classes of the release.
The stages are called as their components call them; the training is of two steps.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kfp_pipelines.commands import planning
from kfp_pipelines.commands.base import open_base, resolve_base
from kfp_pipelines.stages import entry
from services.errors import CommandError
from services.registry import evaluations, releases
from services.registry.releases import RegistryError
from tests.support.commands import Darkroom
from tests.support.previews import small_previews
from tests.support.releases import make_distilled_release, make_tiny_release
from tests.support.stack import Stack
from training.metrics import classifier
from training.model.latent_diffusion import load_autoencoder, load_diffusion, save_autoencoder, save_diffusion
from training.model.release import AUTOENCODER_FILE, read
from training.planning import plan as plans
from training.planning.budget import Start
from training.planning.survey import PlanError

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # in Lightning
]
SHORT = ["steps=2", "pictures_every=1", "held_out.every_steps=null", "held_out.patience=null",
         "optimiser.warmup_steps=1"]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_ROOT", str(stack.root))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twenty pictures of ten classes, whose names are those of the tiny release."""
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)
        path = tmp_path / "pictures" / str(number % 10) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "pictures"


def test_a_release_is_tuned_compared_and_published(
    stack: Stack, darkroom_here: Darkroom, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(name: str) -> str:
        return str(tmp_path / name)

    (pictures / "9" / "9.png").rename(pictures / "8" / "9.png")
    (pictures / "9" / "19.png").rename(pictures / "8" / "19.png")
    monkeypatch.setattr(planning, "measure_start", lambda: Start(1.0, 0.1))
    command = ("train", str(pictures), "--name", "tiny-tuned", "--from", "tiny@production", "--minutes", "600")
    planned = darkroom_here(*command, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "begin with tiny@1: its first stage, U-Net and 10 classes, 32x32 pixels in grey" in planned.stdout
    assert "200 steps, which see each picture 200 times" in planned.stdout
    assert "no pictures of 9: the release keeps these classes, but may draw them worse" in planned.stdout
    again = darkroom_here(*command, "--dry-run", "--json")
    assert "Continuing with the plan" in again.stderr
    assert json.loads(again.stdout)["plan"]["base"] == "tiny@1"
    folder = tmp_path / "experiments" / "tiny-tuned"
    plan = plans.Plan.read(folder)
    assert plan is not None
    given = plans.arguments(plan, folder)
    fields = [one.removeprefix("data_overrides=") for one in given if one.startswith("data_overrides=")]
    experiment = (folder / "diffusion.yaml").read_text()

    monkeypatch.setattr(classifier, "train", partial(classifier.train, steps=5))
    entry.prepare("images", fields, at("images"))
    assert entry.fetch_release(str(plan.base), "diffusion", at("base")) == "tiny@1"
    assert entry.fetch_release(str(plan.base), "autoencoder", at("first")) == "tiny@1"
    first, base = read(tmp_path / "first" / "release"), read(tmp_path / "base" / "release")
    assert (first.kind, first.files[AUTOENCODER_FILE]) == ("autoencoder", base.files[AUTOENCODER_FILE])
    entry.encode(experiment, [], at("first"), at("images"), at("latents"))
    inputs = {
        "data.root": at("images"), "data.latents": at("latents"), "autoencoder": at("first/release"),
        "initial": at("base/release"),
    }  # fmt: skip
    with small_previews():
        entry.train(experiment, SHORT, inputs, at("training"), "", at("training.html"))
    scores = entry.evaluate(
        at("training"), at("images"), at("scores"), ["images=32", "steps=2"], at("a.html"), at("base")
    )
    reference = entry.publish(at("training"), at("scores"), "candidate", "run-7", ["steps=7", "solver=ddim"])
    with stack.engine("publisher").connect() as connection:
        made = releases.find(connection, reference)
        (recorded,) = evaluations.list_evaluations(connection, made.id)
    assert reference == "tiny-tuned@1"
    assert made.manifest["conditions"] == base.conditions
    assert made.manifest["lineage"]["initial"] == base.digest
    assert made.manifest["lineage"]["autoencoder"] == first.digest
    defaults = {"steps": 7, "solver": "ddim"}
    assert made.manifest["architecture"] == {**base.to_json()["architecture"], "sampling": defaults}
    assert recorded.metrics["nearest_training_image"] == scores["nearest_training_image"]
    before = recorded.metrics["base"]
    assert (before["release"], before["release_digest"]) == ("tiny", base.digest)
    assert before["nearest_training_image"] != scores["nearest_training_image"]


def test_what_cannot_be_begun_with_is_told_before_anything_is_written(
    stack: Stack, darkroom_here: Darkroom, pictures: Path, tmp_path: Path
) -> None:
    with stack.engine("publisher").begin() as connection:
        releases.publish(connection, stack.store(), make_distilled_release(tmp_path / "student"))
    done = darkroom_here("train", str(pictures), "--name", "t", "--from", "tiny-distilled@1")
    assert done.returncode == 1
    assert "--from: tiny-distilled@1 is not allowed; it is distilled to few evaluations" in done.stderr
    done = darkroom_here("train", str(pictures), "--name", "t", "--from", "tiny@1", "--size", "64")
    assert "--size: 64 is not allowed with --from tiny@1; permitted: 32" in done.stderr
    with pytest.raises(CommandError, match=r"--from: .*no-such"):
        open_base("no-such@production")
    assert not (tmp_path / "experiments").exists()


def test_a_folder_is_read_where_it_is(tmp_path: Path) -> None:
    folder = make_tiny_release(tmp_path / "mine", seed=5)
    base = open_base(str(folder))
    assert (base.reference, base.release.digest) == (str(folder), read(folder).digest)
    assert entry.fetch_release(str(folder), "diffusion", str(tmp_path / "base")) == str(folder)
    assert entry.fetch_release(str(folder), "autoencoder", str(tmp_path / "first")) == str(folder)
    assert read(tmp_path / "first" / "release").kind == "autoencoder"
    with pytest.raises(RegistryError, match="is of kind autoencoder; permitted: diffusion"):
        entry.fetch_release(str(tmp_path / "first" / "release"), "diffusion", str(tmp_path / "again"))
    with pytest.raises(PlanError, match="it is a first stage alone"):
        open_base(str(tmp_path / "first" / "release"))
    manifest = folder / "release.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "digest": "0" * 64}))
    with pytest.raises(CommandError, match=r"--from: release\.json: the digest does not match"):
        open_base(str(folder))


def test_a_name_is_not_a_folder_of_pictures_that_is_called_like_it(pictures: Path) -> None:
    assert resolve_base("pictures") == "pictures"
    make_tiny_release(Path("tiny"))
    assert resolve_base("tiny") == str(Path("tiny").absolute())
    assert resolve_base("./pictures") == str(pictures)


def test_a_latent_scale_that_was_measured_stays(stack: Stack, tmp_path: Path) -> None:
    """The first stage was imported without a scale, so its release has other weights than that of the second stage."""
    model, _ = load_diffusion(make_tiny_release(tmp_path / "made", seed=8))
    model.autoencoder.latent_scale.fill_(1.0)
    first = save_autoencoder(tmp_path / "first", model.autoencoder, name="imported-first", image_size=32)
    model.autoencoder.latent_scale.fill_(0.25)
    lineage = {"autoencoder": first.digest}
    save_diffusion(tmp_path / "second", model, name="scaled", image_size=32, lineage=lineage)
    with stack.engine("publisher").begin() as connection:
        releases.publish(connection, stack.store(), tmp_path / "first")
        releases.publish(connection, stack.store(), tmp_path / "second")
    assert entry.fetch_release("scaled@1", "autoencoder", str(tmp_path / "fetched")) == "scaled@1"
    autoencoder, fetched = load_autoencoder(tmp_path / "fetched" / "release")
    assert (fetched.kind, float(autoencoder.latent_scale)) == ("autoencoder", 0.25)
