"""Train a model: `python -m training.train experiment=digits_autoencoder [field=value ...]`."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError

from training import prepare
from training.data.image_set import DataError
from training.experiments import compose
from training.experiments.schema import AutoencoderExperiment, Experiment, ExperimentError, plain
from training.model.release import ReleaseError
from training.runs.checkpoints import CheckpointError, CheckpointFolder, CheckpointLocation, disk_full
from training.runs.errors import Diverged, Interrupted

MISTAKES = (ExperimentError, DataError, ReleaseError, CheckpointError, Diverged)
IN_OUTPUT = CheckpointFolder()
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: run it again


def run(
    name: str,
    overrides: Sequence[str] = (),
    output: Path | None = None,
    *,
    checkpoints: CheckpointLocation = IN_OUTPUT,
) -> Path:
    """Train the experiment `name` into `output` and return the release folder, `output/release`.

    A run that died resumes from its last checkpoint. `checkpoints` is `output/checkpoints` by default.
    Raises ExperimentError, DataError, ReleaseError, CheckpointError, Diverged or Interrupted.
    """
    config = compose.load(name, overrides)
    if output is not None:
        config = replace(config, output=str(output))
    return train(config, checkpoints)


def train(config: Experiment, checkpoints: CheckpointLocation = IN_OUTPUT) -> Path:
    """Train a checked experiment; see `run`."""
    images = prepare.images(config.data)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)  # the initial weights
    unfinished = output / "release.unfinished"  # a finished release stays until the next one is whole
    if isinstance(config, AutoencoderExperiment):
        from training.runs.autoencoder import train_autoencoder

        first = train_autoencoder(config, images, checkpoints, unfinished)
    else:
        from training.runs.diffusion import train_diffusion

        first = train_diffusion(config, images, checkpoints, unfinished)
    release = output / "release"
    if first:  # of several ranks
        shutil.rmtree(release, ignore_errors=True)
        unfinished.rename(release)
    return release


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. A person's mistake is one line on standard error and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description="Train a model. Fields are documented in training/configs/.",
        epilog=f"experiments: {', '.join(compose.names())}",
    )
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="experiment=NAME, then fields to change")
    parser.add_argument("--show", action="store_true", help="print the resolved configuration and stop")
    parsed = parser.parse_intermixed_args(arguments)
    chosen = [
        override.removeprefix("experiment=") for override in parsed.overrides if override.startswith("experiment=")
    ]
    others = [override for override in parsed.overrides if not override.startswith("experiment=")]
    try:
        if len(chosen) != 1:
            raise ExperimentError(f"experiment: give one, experiment=NAME; permitted: {', '.join(compose.names())}")
        if parsed.show:
            print(yaml.safe_dump(plain(compose.load(chosen[0], others)), sort_keys=False), end="")
        else:
            print(run(chosen[0], others))
    except MISTAKES as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, SafetensorError) as error:
        if not disk_full(error):
            raise
        print(f"the disk is full ({error}); make room and run the same command again", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(error, file=sys.stderr)
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
