"""A training process that dies goes on as if it had not; ranks share a batch without changing it. Real processes."""

import csv
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import fork_server
from tests.support.http import free_port
from tests.support.previews import small_previews
from training import train
from training.data import image_set
from training.experiments.schema import ExperimentError
from training.model import release

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # in Lightning
]

STEPS, EVERY = 12, 3
MAIN = "import runpy; runpy.run_module('training.train', run_name='__main__', alter_sys=True)"

# After a step, wait for a file: a process that is told to stop is to have steps left, however fast it is.
WAIT = """
import functools, os, time
from training.recipes.recipe import Recipe
take_step = Recipe.training_step

@functools.wraps(take_step)
def wait(self, *given):
    while self.step == {step} and not os.path.exists({file!r}):
        time.sleep(0.01)
    return take_step(self, *given)

Recipe.training_step = wait
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images of 24x24 pixels in colour, with labels and captions."""
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    images = np.repeat(np.repeat(rng.integers(0, 255, (48, 4, 4, 3)), 6, axis=1), 6, axis=2).astype(np.uint8)
    records = [{"name": f"{i}", "label": i % 3, "text": f"scene number {i % 7}"} for i in range(48)]
    image_set.write(root, name="scenes", images=images, records=records, train_count=40, classes=["a", "b", "c"])
    return root


COMMON = ["batch_size=4", "device=cpu", f"steps={STEPS}", f"checkpoint.every_steps={EVERY}", "data=images",
          "data.image_size=24", "data.flip=true", "pictures_every=9", "optimiser.warmup_steps=3"]  # fmt: skip
FIRST = ["model.channels=32", "model.multipliers=[1,1]", "model.res_blocks=1", "model.middle_attention=false",
         "model.dropout=0.1", "loss.adversarial_weight=0.5", "loss.adversarial_start=6", "loss.equivariance=0.5",
         "loss.r1_weight=0.1"]  # fmt: skip
SECOND = ["model.unet.channels=32", "model.unet.multipliers=[1]", "model.unet.res_blocks=1",
          "model.unet.attention_factors=[1]", "model.unet.dropout=0.1", "model.unet.context_width=32",
          "model.conditioners.caption.depth=1"]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As the processes have: sums over other thread counts end in other last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def _small_previews() -> Iterator[None]:
    with small_previews():
        yield


@dataclass(frozen=True)
class Stage:
    """An experiment and its overrides."""

    name: str
    overrides: list[str]

    def run(self, output: Path, *more: str) -> Path:
        """In this process."""
        return train.run(self.name, [*self.overrides, *more], output)

    def start(self, output: Path, *more: str, first: str = "", **environment: str) -> fork_server.Forked:
        """In a process of its own, as `python -m training.train` does. first: Python code to run before."""
        arguments = [f"experiment={self.name}", *self.overrides, *more, f"output={output}"]
        variables = {**os.environ, **environment}
        return fork_server.server(fork_server.TRAINING).start(first + MAIN, arguments, log_of(output), variables)

    def start_ranks(self, output: Path, *more: str) -> list[fork_server.Forked]:
        """Two processes with the variables that Lightning gives the second when it starts that itself."""
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0", "WORLD_SIZE": "2"}
        return [self.start(output, *more, "devices=2", **shared, LOCAL_RANK=rank) for rank in ("0", "1")]

    def signalled(self, output: Path, step: int, number: int, *more: str) -> int:
        """Start a process and signal it when it has taken `step` steps; its exit status.

        SIGTERM finds it between two steps, SIGKILL anywhere.
        """
        told = output.with_suffix(".told")
        waits = WAIT.format(step=step, file=str(told)) if number == signal.SIGTERM else ""
        process = self.start(output, *more, first=waits)
        table = output / "losses.csv"
        while not table.is_file() or len(table.read_text().splitlines()) <= step:
            assert process.poll() is None, log_of(output).read_text()
            time.sleep(0.01)
        process.send_signal(number)
        told.touch()
        return process.wait()


def log_of(output: Path) -> Path:
    """What the process that trains into `output` writes."""
    return output.with_suffix(".log")


@pytest.fixture(scope="module")
def first(scenes: Path) -> Stage:
    return Stage("shapes_autoencoder", [*COMMON, *FIRST, f"data.root={scenes}"])


@pytest.fixture(scope="module")
def codebook(scenes: Path) -> Stage:
    overrides = [*COMMON, *FIRST, f"data.root={scenes}", "model.codebook_size=64", "loss.codebook_restart=2"]
    return Stage("shapes_vq_autoencoder", overrides)


@pytest.fixture(scope="module")
def first_output(first: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first.run(tmp_path_factory.mktemp("first")).parent


@pytest.fixture(scope="module")
def second(first_output: Path, scenes: Path) -> Stage:
    return Stage("shapes_text", [*COMMON, *SECOND, f"data.root={scenes}", f"autoencoder={first_output / 'release'}"])


@pytest.mark.parametrize("kind", ["first", "second"])
def test_a_killed_run_ends_with_the_same_bytes(
    kind: str, first_output: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """SIGKILL at a step that is drawn anew at each run of this test."""
    stage: Stage = request.getfixturevalue(kind)
    whole = first_output if kind == "first" else stage.run(tmp_path / "whole").parent
    step = int(np.random.default_rng().integers(EVERY, STEPS - 2))
    output = tmp_path / "killed"
    assert stage.signalled(output, step, signal.SIGKILL) == -signal.SIGKILL
    assert not (output / "release").exists()
    stage.run(output)
    assert release.read(output / "release").digest == release.read(whole / "release").digest, f"killed at {step}"
    for file in ("losses.csv", "release/samples.png"):
        assert (output / file).read_bytes() == (whole / file).read_bytes(), f"{file}, killed at {step}"


def test_a_run_that_is_told_to_stop_saves_first(first: Stage, first_output: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert first.signalled(output, 5, signal.SIGTERM, "checkpoint.every_steps=null") == 75
    (saved,) = (output / "checkpoints").iterdir()
    assert int(saved.name.removeprefix("step-")) >= 5
    first.run(output)
    assert release.read(output / "release").digest == release.read(first_output / "release").digest


@pytest.mark.parametrize("losses", ["kept", "lost"])
def test_a_finished_run_is_not_trained_again(
    first: Stage, first_output: Path, tmp_path: Path, losses: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(first_output, tmp_path / "out")
    if losses == "lost":
        (tmp_path / "out" / "losses.csv").unlink()
    before = release.read(first_output / "release").digest
    first.run(tmp_path / "out")
    assert f"resuming from step {STEPS} of {STEPS}" in capsys.readouterr().out
    assert release.read(tmp_path / "out" / "release").digest == before
    card = (tmp_path / "out" / "release" / "card.md").read_text()
    assert ("| Final loss | none |" in card) is (losses == "lost")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=4", "seed was 0 and is 4"),
        ("optimiser.learning_rate=0.1", "optimiser.learning_rate was 0.002 and is 0.1"),
        (f"steps={2 * STEPS}", f"steps was {STEPS} and is {2 * STEPS}"),
    ],
)
def test_going_on_with_another_configuration_names_what_changed(
    override: str, told: str, first: Stage, first_output: Path
) -> None:
    before = (first_output / "config.yaml").read_bytes()
    with pytest.raises(ExperimentError) as caught:
        first.run(first_output, override)
    assert f"holds a run of another experiment at step {STEPS}: {told}. Give another output" in str(caught.value)
    assert (first_output / "config.yaml").read_bytes() == before


def test_other_images_are_named_too(first: Stage, first_output: Path, scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "scenes")
    images = np.load(tmp_path / "scenes" / image_set.IMAGES)
    records = [{"name": f"{i}", "label": 0} for i in range(48)]
    image_set.write(tmp_path / "scenes", name="other", images=255 - images, records=records, train_count=40)
    with pytest.raises(ExperimentError, match=r": data fingerprint was \w{12} and is \w{12}\. Give"):
        first.run(first_output, f"data.root={tmp_path / 'scenes'}")


def test_steps_may_be_added_to_a_run_of_constant_rate(second: Stage, tmp_path: Path) -> None:
    constant = "optimiser.schedule=constant"
    second.run(tmp_path / "more", constant, "steps=4")
    second.run(tmp_path / "more", constant, "steps=6")
    second.run(tmp_path / "whole", constant, "steps=6")
    digests = [release.read(tmp_path / output / "release").digest for output in ("more", "whole")]
    assert digests[0] == digests[1]


def losses(output: Path) -> list[float]:
    with (output / "losses.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("kind", ["first", "codebook", "second"])
def test_two_ranks_share_the_batch_of_one(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Over gloo, with the same global batch: the same losses. Lightning starts the second rank of one kind itself.

    The rate is small, for Adam's first steps make of gradients near zero, whose sign rounding decides, whole ones.
    """
    stage: Stage = request.getfixturevalue(kind)
    more = ["steps=8", "pictures_every=100", "optimiser.learning_rate=1e-5"]
    if kind != "second":  # batch norms of the discriminator see half a batch each on CPUs; it joins at the end
        more += ["model.dropout=0.0", "accumulate=2", "loss.r1_weight=0"]
    else:
        more += ["model.unet.dropout=0.0"]  # it differs from rank to rank
    output = tmp_path / "two"
    stage.run(tmp_path / "one", *more)
    if kind == "second":
        two_ranks = [stage.start(output, *more, "devices=2", first=fork_server.FORKS)]
    else:
        two_ranks = stage.start_ranks(output, *more)
    for rank in two_ranks:
        assert rank.wait() == 0, log_of(output).read_text()
    one, two = (np.array(losses(folder)) for folder in (tmp_path / "one", output))
    assert len(one) == len(two) == 8
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert (output / "release").is_dir()


def test_training_does_not_import_transformers(tmp_path: Path) -> None:
    """Lightning would, through torchmetrics, for a second of CPU time at each start."""
    code = "import sys; sys.exit('lightning' not in sys.modules or 'transformers' in sys.modules)"
    asked = fork_server.server(fork_server.TRAINING).start(code, [], tmp_path / "log", os.environ)
    assert asked.wait() == 0
