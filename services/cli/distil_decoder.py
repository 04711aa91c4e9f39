"""`darkroom distil-decoder`: adds a light decoder to a release, distilled from its own."""

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.distil import DataOption, check_published_name, publish_made, say
from services.cli.evaluate import open_release
from services.cli.session import AsJson, ReleaseArgument
from services.cli.terminal import print_json
from services.errors import CommandError

if TYPE_CHECKING:
    from training.experiments.schema import LightDecoderExperiment
    from training.model.release import Release


def distil_decoder(
    release: ReleaseArgument,
    data: DataOption = None,
    steps: Annotated[int, typer.Option(help="Training steps of 16 images; the evaluation follows.", min=1)] = 4000,
    name: Annotated[str | None, typer.Option(help="The name to publish under; default: the release's own.")] = None,
    alias: Annotated[str, typer.Option(help="The alias to point at the new release.")] = "candidate",
    within: Annotated[float, typer.Option(help="Publish only up to this loss of PSNR, in dB; 0: always.", min=0)] = 0.3,
    publish: Annotated[bool, typer.Option(help="Publish the new release if it meets --within.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a light decoder for a release.

    Trains it, with at most an eighth of the own decoder's operations, on the images of the release, measures both
    decoders on held-out images, and publishes the release with both. Requests choose with the field decoder; the light
    one is the default if it loses at most 0.3 dB of PSNR. The same command resumes.
    """
    with open_release(release) as folder:
        from training.experiments.teachers import check_decoder
        from training.model import light_release
        from training.model.release import LIGHT_DECODER, read
        from training.train import train

        teacher = read(folder)
        check_decoder(teacher)
        config, root = _prepare(teacher, folder, data, steps, check_published_name(name or teacher.name, alias))
        say(f"Training  {config.steps:,} steps of {config.batch_size} images, into {config.output}/", as_json)
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            made = train(config)
    scores = _evaluate(made, root, Path(config.output) / "evaluation", quiet=as_json)
    default = light_release.write_scores(made, scores).sampling.get("decoder")
    loss = scores["psnr_loss"]
    if within and loss > within:
        raise CommandError(
            f"refused: the light decoder loses {loss:.2f} dB of PSNR; permitted: at most --within {within:g}. The "
            f"release is in {made}; train longer with --steps, or give another --within"
        )
    answer: dict[str, Any] = {"release": str(made), "default": default, LIGHT_DECODER: scores}
    if publish:
        answer["published"] = publish_made(release, made, alias)
    if as_json:
        print_json(answer)
        return
    if default is not None:
        typer.echo(f"decoder by default: {default}")
    typer.echo(f"{answer['published']}, which {config.name}@{alias} points at" if publish else str(made))


def _prepare(
    teacher: "Release", folder: Path, data: str | None, steps: int, name: str
) -> "tuple[LightDecoderExperiment, Path]":
    """Return the experiment, and the folder of its image set."""
    from training import prepare
    from training.evaluate import fit_images
    from training.planning import light_decoder as plans
    from training.planning.distillation import find_images

    config = plans.plan(teacher, folder, find_images(teacher, data), name, steps)
    fit_images(prepare.images(config.data), teacher)
    return config, prepare.set_folder(config.data)


def _evaluate(folder: Path, root: Path, output: Path, *, quiet: bool) -> dict[str, Any]:
    """Measure both decoders of a release folder, and print the figures."""
    from rich.console import Console

    from training.evaluate import run_decoders, table_decoders

    scores = run_decoders(folder, root, output)
    if not quiet:
        Console(highlight=False).print(table_decoders(scores))
        typer.echo(f"{output / 'decoders.png'}")
    return scores
