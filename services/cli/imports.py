"""`darkroom import`: models of other programs as releases."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from services.errors import CommandError

app = typer.Typer(help="Read models of other programs.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)


@app.callback()
def _group() -> None:
    """Keep `compvis` a subcommand while it is the only one."""


@app.command()
def compvis(
    checkpoint: Annotated[Path, typer.Argument(help="A .ckpt or .safetensors file; nothing in it is executed.")],
    config: Annotated[Path, typer.Option(help="The YAML configuration that the model was trained with.")],
    output: Annotated[Path, typer.Option(help="The release folder: one that does not exist yet, or is empty.")],
    weights: Annotated[
        Literal["ema", "raw"] | None,
        typer.Option(help="ema or raw; ema where the file has averaged weights, unless told."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the release; the file's own, unless told.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json or vocab.txt of a text model; else it takes token ids.")
    ] = None,
) -> None:
    """Read a checkpoint of the released latent diffusion models into a release folder.

    Every tensor must find its place; what is missing or left over is listed.
    """
    name = name or re.sub(r"[^a-z0-9_-]+", "-", checkpoint.stem.lower()).strip("-") or "model"
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        raise CommandError(f"--name: {name!r} is not allowed; permitted: lower case letters, digits, - and _")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CommandError(f"--output: {output} is there already; give a folder that does not exist yet")
    from training.model.interop.compvis.reading import CompVisError
    from training.model.interop.compvis.release import release_of

    try:
        with console.status(f"Reading {checkpoint}"):
            release, parameters = release_of(
                checkpoint,
                config,
                output,
                name=name,
                weights=weights,
                tokenizer=tokenizer,
            )
    except CompVisError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"--output: {output} cannot be written ({error.strerror})") from None
    table = Table(show_header=False, box=None)
    for part, count in parameters.items():
        table.add_row(part, f"{count / 1e6:.2f}M parameters")
    table.add_row("image", "x".join(map(str, release.image_shape)))
    table.add_row("latent", "x".join(map(str, release.latent_shape)))
    table.add_row("conditions", ", ".join(release.conditions.get("properties", {})) or "none")
    console.print(f"{output} is release {release.name} ({release.kind}), digest {release.digest[:12]}")
    console.print(table)
