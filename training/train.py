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
from training.commands import run_command
from training.disk import describe_file_error, is_disk_full
from training.experiments import compose
from training.experiments.schema import (
    AutoencoderExperiment,
    DistillationExperiment,
    Experiment,
    ExperimentError,
    LightDecoderExperiment,
    to_plain,
)
from training.runs.checkpoints import CheckpointFolder, CheckpointLocation
from training.runs.errors import DiskFullError

IN_OUTPUT = CheckpointFolder()


def run(
    name: str,
    overrides: Sequence[str] = (),
    output: Path | None = None,
    *,
    checkpoints: CheckpointLocation = IN_OUTPUT,
) -> Path:
    """Train the experiment `name` into `output` and return the release folder, `output/release`.

    A run that died resumes from its last checkpoint. Checkpoints are stored in `output/checkpoints` by default.
    Raises ExperimentError, DataError, ReleaseError, CheckpointError, Diverged, DiskFullError or Interrupted.
    """
    config = compose.load(name, overrides)
    if output is not None:
        config = replace(config, output=str(output))
    return train(config, checkpoints)


def train(config: Experiment, checkpoints: CheckpointLocation = IN_OUTPUT) -> Path:
    """Train a checked experiment and return its release folder; see `run`."""
    try:
        return _train(config, checkpoints)
    except (OSError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(describe_file_error(error)) from None


def _train(config: Experiment, checkpoints: CheckpointLocation) -> Path:
    # Imported here: the recipes load Lightning, which is slow.
    from training.runs import autoencoder, diffusion, distillation, light_decoder, trackers

    trackers.check(config)
    if isinstance(config, AutoencoderExperiment):
        autoencoder.check(config)
    elif isinstance(config, DistillationExperiment):
        distillation.check(config)
    elif isinstance(config, LightDecoderExperiment):
        light_decoder.check(config)
    else:
        diffusion.check(config)
    images = prepare.images(config.data)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)  # the initial weights
    unfinished = output / "release.unfinished"  # the previous release stays until this one is complete
    if isinstance(config, AutoencoderExperiment):
        is_first_rank = autoencoder.train_autoencoder(config, images, checkpoints, unfinished)
    elif isinstance(config, DistillationExperiment):
        is_first_rank = distillation.distil(config, images, checkpoints, unfinished)
    elif isinstance(config, LightDecoderExperiment):
        is_first_rank = light_decoder.distil_decoder(config, images, checkpoints, unfinished)
    else:
        is_first_rank = diffusion.train_diffusion(config, images, checkpoints, unfinished)
    release = output / "release"
    if is_first_rank:
        shutil.rmtree(release, ignore_errors=True)
        unfinished.rename(release)
    return release


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 for a mistake, 75 for a run that was stopped and can resume."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description="Train a model. Fields are documented in training/configs/.",
        epilog=f"experiments: {', '.join(compose.names())}",
    )
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="experiment=NAME, then fields to change")
    parser.add_argument("--show", action="store_true", help="print the resolved configuration and exit")
    parsed = parser.parse_intermixed_args(arguments)
    experiments = [text.removeprefix("experiment=") for text in parsed.overrides if text.startswith("experiment=")]
    overrides = [text for text in parsed.overrides if not text.startswith("experiment=")]

    output: Path | None = None

    def command() -> None:
        nonlocal output
        if len(experiments) != 1:
            raise ExperimentError(f"experiment: give one, experiment=NAME; permitted: {', '.join(compose.names())}")
        config = compose.load(experiments[0], overrides)
        output = Path(config.output)
        if parsed.show:
            print(yaml.safe_dump(to_plain(config), sort_keys=False), end="")
        else:
            print(train(config))

    return run_command(command, logs=lambda: output)


if __name__ == "__main__":
    sys.exit(main())
