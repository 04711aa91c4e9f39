"""`darkroom evaluate`: a release's figures and pictures, on a set of images."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from services.cli.session import AsJson, connect
from services.errors import CommandError

console = Console(highlight=False)


def evaluate(
    release: Annotated[str, typer.Argument(help="A release folder, or a published name, name@alias or name@version.")],
    data: Annotated[Path, typer.Argument(help="The folder of a prepared image set.")],
    output: Annotated[Path | None, typer.Option(help="The folder to write; evaluations/NAME otherwise.")] = None,
    images: Annotated[int, typer.Option(help="How many a diffusion model makes.", min=1)] = 1000,
    solver: Annotated[str, typer.Option(help="How it makes them.")] = "dpm_solver_2m",
    steps: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    guidance: Annotated[float, typer.Option(help="0: 1.5, or 1 for a release that cannot be guided.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    inception: Annotated[Path | None, typer.Option(help="Published weights, for its Fréchet distance.")] = None,
    vgg: Annotated[str | None, typer.Option(help="Published VGG-16 weights for LPIPS, a path or a URL.")] = None,
    lpips: Annotated[str | None, typer.Option(help="Published LPIPS weights, a path or a URL.")] = None,
    clip: Annotated[Path | None, typer.Option(help="The folder of a CLIP of the transformers library.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a release on the held-out images of a set; write figures, samples and their nearest training images.

    Without Inception's weights sets are compared through a small network that learns the set's own images.
    """
    from training.data.image_set import DataError
    from training.evaluate import run, table
    from training.evaluation.networks import Weights
    from training.evaluation.second_stage import Sampling

    folder = Path(release) if Path(release).is_dir() else fetched(release)
    written = output or Path("evaluations") / release.rstrip("/").replace("/", "-").lstrip("-")
    sampling = Sampling(images, solver, steps, guidance, seed)
    try:
        scores = run(folder, data, written, sampling, Weights(inception, vgg, lpips, clip))
    except (DataError, ValueError, FileNotFoundError) as error:
        raise CommandError(str(error)) from None
    if as_json:
        typer.echo(json.dumps(scores))
        return
    console.print(table(scores))
    for name in ("samples", "nearest", "reconstructions"):
        if (written / f"{name}.png").is_file():
            console.print(f"{written / name}.png")
    console.print(f"{written / 'metrics.json'}")


def fetched(reference: str) -> Path:
    """The folder of a published release. Raises RegistryError for one that does not exist."""
    from services.registry import release_cache, releases
    from services.storage.object_store import ObjectStore

    settings, engine = connect("publisher")
    with engine.connect() as connection:
        manifest = releases.find(connection, reference).manifest
    return release_cache.fetch(ObjectStore.connect(settings), manifest, settings.cache_dir, settings.cache_gb)
