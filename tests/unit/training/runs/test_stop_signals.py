"""SIGTERM ends a training with its state saved, whatever the training does when it comes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.previews import small_previews
from tests.unit.training.conftest import tiny_autoencoder
from training import train
from training.model.latent_diffusion import save_autoencoder
from training.runs.callbacks import PreviewDrawer
from training.runs.errors import Interrupted

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning
SMALL = [
    "batch_size=4", "steps=6", "model.unet.channels=32", "model.unet.multipliers=[1]", "device=cpu",
    "data.image_size=16", "held_out.every_steps=null", "checkpoint.every_minutes=1000",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _small_previews() -> Iterator[None]:
    with small_previews():
        yield


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
def test_a_signal_between_two_steps_loses_no_step(
    hook: str, bars_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drawing of previews, which takes seconds, comes after the saving of the state."""
    first = tmp_path / "first"
    save_autoencoder(first, tiny_autoencoder(), name="first", image_size=16, lineage={})

    def told_to_stop(self: PreviewDrawer, trainer: Any, module: Any, *rest: Any) -> None:
        if module.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(PreviewDrawer, hook, told_to_stop)
    with pytest.raises(Interrupted, match=r"^stopped at step 3 of 6, which is saved"):
        train.run("digits_diffusion", [*SMALL, f"data.root={bars_root}", f"autoencoder={first}"], tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").glob("step-00000003/run.json"))
