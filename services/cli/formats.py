"""`darkroom import` and `darkroom export`: releases from and for other programs."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from services.cli.commands import COMMANDS, command_group
from services.cli.session import AsJson
from services.cli.terminal import print_json, print_table
from services.errors import CommandError

imports = command_group(COMMANDS["import"].help)
exports = command_group(COMMANDS["export"].help)


@imports.command()
def compvis(
    checkpoint: Annotated[Path, typer.Argument(help="A .ckpt or .safetensors file. No code in it is executed.")],
    config: Annotated[Path, typer.Option(help="The YAML configuration that the model was trained with.")],
    output: Annotated[Path, typer.Option(help="The release folder to write: new or empty.")],
    weights: Annotated[
        Literal["ema", "raw"] | None,
        typer.Option(help="Which weights to read; default: ema if the file has averaged weights."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The name of the release; default: from the file's name.")] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="The tokenizer.json or vocab.txt of a text model; without it, the release takes token ids."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint of the latent diffusion authors' code to a release folder.

    Every tensor must match; missing and unexpected tensors are listed.
    """
    name = name or re.sub(r"[^a-z0-9_-]+", "-", checkpoint.stem.lower()).strip("-") or "model"
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        raise CommandError(f"--name: {name!r} is not allowed; permitted: lower case letters, digits, - and _")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CommandError(f"--output: {output} already exists; give a new or empty folder")
    from rich.console import Console

    from training.model.interop.compvis.release import import_release

    try:
        with Console(stderr=True).status(f"Reading {checkpoint}"):
            release, parameters = import_release(
                checkpoint, config, output, name=name, weights=weights, tokenizer=tokenizer
            )
    except OSError as error:
        raise CommandError(f"--output: {output} cannot be written ({error.strerror})") from None
    if as_json:
        print_json({"path": str(output), "name": release.name, "kind": release.kind, "digest": release.digest})
        return
    typer.echo(f"{output} is release {release.name} ({release.kind}), digest {release.digest[:12]}")
    rows = [(part, f"{count / 1e6:.2f}M parameters") for part, count in parameters.items()]
    rows.append(("image", "x".join(map(str, release.image_shape))))
    rows.append(("latent", "x".join(map(str, release.latent_shape))))
    rows.append(("conditions", ", ".join(release.conditions.get("properties", {})) or "none"))
    print_table((), rows)


@exports.command()
def diffusers(
    release_dir: Annotated[Path, typer.Argument(help="The release folder to read.")],
    out_dir: Annotated[Path, typer.Argument(help="The folder to write: new or empty.")],
    as_json: AsJson = False,
) -> None:
    """Convert a release to a folder that diffusers loads with `from_pretrained`.

    The folder contains a README that shows how to sample it. Weights are renamed, never approximated: a release that
    diffusers cannot express is refused.
    """
    from training.model.interop import huggingface

    model_class = huggingface.export(release_dir, out_dir)
    if as_json:
        print_json({"path": str(out_dir), "class": model_class})
    else:
        typer.echo(f"{out_dir} is written for diffusers' {model_class}; see {out_dir / 'README.md'}")


@imports.callback()
@exports.callback()
def _group() -> None:
    """Keep the only command of each group a subcommand."""
