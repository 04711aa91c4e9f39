"""`darkroom export`: writes releases in the formats of other programs."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli.commands import COMMANDS, command_group
from services.cli.session import AsJson
from services.cli.terminal import print_json

app = command_group(COMMANDS["export"].help)


@app.command()
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
    tell_of_light_decoder(release_dir)
    if as_json:
        print_json({"path": str(out_dir), "class": model_class})
    else:
        typer.echo(f"{out_dir} is written for diffusers' {model_class}; see {out_dir / 'README.md'}")


@app.command()
def compvis(
    release_dir: Annotated[Path, typer.Argument(help="The release folder to read.")],
    out_dir: Annotated[Path, typer.Argument(help="The folder to write: new or empty.")],
    as_json: AsJson = False,
) -> None:
    """Convert a release to a CompVis checkpoint and its configuration.

    `darkroom import compvis` reads the same weights again. A release that their code cannot express is refused.
    """
    from training.model.interop.compvis import writing

    model_class = writing.export(release_dir, out_dir)
    tell_of_light_decoder(release_dir)
    if as_json:
        print_json({"path": str(out_dir), "class": model_class})
    else:
        typer.echo(f"{out_dir} has {writing.CHECKPOINT} and {writing.CONFIG} of a {model_class}")


def tell_of_light_decoder(folder: Path) -> None:
    """Say that other programs decode with the own decoder, if a release has a light one."""
    from training.model.release import read

    if read(folder).has_light_decoder:
        typer.echo("note: the light decoder is left out; other programs use the full decoder", err=True)
