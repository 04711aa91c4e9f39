"""`darkroom evaluate`: metrics and sample images of a release, on an image set."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from services.cli.session import AsJson, ReleaseArgument, connect
from services.cli.terminal import print_json
from services.errors import CommandError


def evaluate(
    release: ReleaseArgument,
    data: Annotated[Path, typer.Argument(help="The folder of a prepared image set.")],
    output: Annotated[Path | None, typer.Option(help="The folder to write; default: evaluations/RELEASE.")] = None,
    images: Annotated[int, typer.Option(help="Images to sample from a diffusion model.", min=1)] = 1000,
    solver: Annotated[str, typer.Option(help="The solver to sample with.")] = "dpm_solver_2m",
    steps: Annotated[int, typer.Option(help="Steps of the solver.", min=1, max=1000)] = 20,
    guidance: Annotated[
        float | None,
        typer.Option(help="The guidance scale; default: the service's, 1.5, or 1 for a release that cannot be guided."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the first image.", min=0)] = 0,
    against: Annotated[
        str | None,
        typer.Option(help="Compare with this release, a folder or published, on the same requests and seeds."),
    ] = None,
    against_steps: Annotated[
        int | None, typer.Option(help="Steps of that release; default: as --steps.", min=1, max=1000)
    ] = None,
    inception: Annotated[Path | None, typer.Option(help="Inception weights for the usual FID and KID.")] = None,
    vgg: Annotated[str | None, typer.Option(help="Published VGG-16 weights for LPIPS: a path or a URL.")] = None,
    lpips: Annotated[str | None, typer.Option(help="Published LPIPS weights: a path or a URL.")] = None,
    clip: Annotated[Path | None, typer.Option(help="The folder of a CLIP model of the transformers library.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a release on the held-out images of an image set.

    Writes metrics.json, a sheet of samples, and a sheet of the training images nearest to them. Without Inception
    weights, the sets are compared by a small network that is trained on the set's own images.

    With --against, each metric is reported as better, worse, or not significantly different.
    """
    from training.evaluate import run, run_against, table, table_against
    from training.evaluation.networks import Weights
    from training.evaluation.second_stage import Sampling

    written = output or Path("evaluations") / release.rstrip("/").replace("/", "-").lstrip("-")
    weights = Weights(inception, vgg, lpips, clip)
    try:
        sampling = Sampling(images, solver, steps, guidance, seed)
        with open_release(release) as folder, nullcontext() if against is None else open_release(against) as other:
            if other is None:
                scores, answer = run(folder, data, written, sampling, weights), "metrics.json"
            else:
                other_sampling = replace(sampling, steps=against_steps or steps)
                scores = run_against(folder, other, data, written, sampling, other_sampling, weights)
                answer = "comparison.json"
    except (ValueError, FileNotFoundError) as error:  # a ValueError names its option
        raise CommandError(str(error)) from None
    if as_json:
        print_json(scores)
        return
    from rich.console import Console

    Console(highlight=False).print(table(scores) if against is None else table_against(scores))
    for name in ("samples", "nearest", "reconstructions") if against is None else ("comparison",):
        if (written / f"{name}.png").is_file():
            typer.echo(written / f"{name}.png")
    typer.echo(written / answer)


def open_release(reference: str) -> AbstractContextManager[Path]:
    """Yield a release folder, or that of a published release. Raises RegistryError if it does not exist."""
    return nullcontext(Path(reference)) if Path(reference).is_dir() else hold(reference)


def hold(reference: str) -> AbstractContextManager[Path]:
    """Yield the folder of a published release, downloaded if needed. Raises RegistryError if it does not exist."""
    from services.registry import releases
    from services.registry.release_cache import ReleaseCache
    from services.storage.object_store import ObjectStore

    settings, engine = connect("publisher")
    with engine.connect() as connection:
        manifest = releases.find(connection, reference).manifest
    return ReleaseCache(ObjectStore.connect(settings), settings.cache_dir, settings.cache_gb).hold(manifest)
