"""What goes wrong on the way costs no more than the steps since the last checkpoint, and is told in one line."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from training import train
from training.runs.checkpoints import STATE, LocalCheckpoints

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning

SMALL = [
    "experiment=digits_autoencoder", "batch_size=4", "model.multipliers=[1,1]", "device=cpu", "data.image_size=16",
    "pictures_every=100",
]  # fmt: skip


def test_a_run_that_diverges_keeps_its_last_good_checkpoint_and_goes_on_with_a_lower_rate(
    bars_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        *SMALL, f"data.root={bars_root}", f"output={tmp_path}", "steps=6", "checkpoint.every_steps=2",
        "optimiser.warmup_steps=0", "optimiser.schedule=constant",
    ]  # fmt: skip
    assert train.main([*command, "steps=2", "optimiser.learning_rate=1e-3"]) == 0
    assert train.main([*command, "optimiser.learning_rate=1e30"]) == 2
    error = capsys.readouterr().err
    assert "optimiser.learning_rate was 0.001 and is 1e+30. Give another output, resume=anyway to resume" in error

    assert train.main([*command, "optimiser.learning_rate=1e30", "resume=anyway"]) == 2
    error = capsys.readouterr().err
    assert "Earlier checkpoints are kept: resume from the last with a lower optimiser.learning_rate" in error
    assert error.count("\n") == 1
    kept = LocalCheckpoints(tmp_path / "checkpoints").latest()
    assert kept is not None
    assert kept.step == 2
    assert max(float(tensor.abs().max()) for tensor in load_file(kept.folder / STATE).values()) < 100

    assert train.main([*command, "optimiser.learning_rate=1e-3", "resume=anyway"]) == 0
    assert "resuming from step 2 of 6" in capsys.readouterr().out


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small file system."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


# A checkpoint takes 2.5 MB and the release 0.8: there is room for one checkpoint, or for both but not for the release.
@pytest.mark.parametrize(("small_disk", "step"), [("4m", 2), ("5500k", 4)], indirect=["small_disk"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_where_there_is_room(
    small_disk: Path, step: int, bars_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SMALL, f"data.root={bars_root}", f"output={small_disk}", "steps=4", "checkpoint.every_steps=2"]
    assert train.main(command) == 2
    error = capsys.readouterr().err
    assert "the disk is full" in error
    assert "ake room and run the same command again" in error
    assert error.count("\n") == 1
    kept = LocalCheckpoints(small_disk / "checkpoints").latest()
    assert kept is not None
    assert kept.step == step
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert train.main(command) == 0
    assert f"resuming from step {step} of 4" in capsys.readouterr().out
