"""`darkroom import`: makes releases from models in the formats of other programs."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from services.cli.commands import COMMANDS, command_group
from services.cli.session import AsJson, connect
from services.cli.terminal import print_json, print_table
from services.errors import CommandError

if TYPE_CHECKING:
    from training.model.release import Release

app = command_group(COMMANDS["import"].help)
Output = Annotated[Path, typer.Option(help="The release folder to write: new or empty.")]
Name = Annotated[str | None, typer.Option(help="The name of the release; default: from the file's name.")]
Publish = Annotated[bool, typer.Option("--publish", help="Also publish the release.")]
Alias = Annotated[str | None, typer.Option(help="With --publish: point this alias at it, such as production.")]
Imported = tuple["Release", Mapping[str, int]]  # the release, and each part's number of parameters


@app.command()
def compvis(
    checkpoint: Annotated[Path, typer.Argument(help="A .ckpt or .safetensors file. No code in it is executed.")],
    config: Annotated[Path, typer.Option(help="The YAML configuration that the model was trained with.")],
    output: Output,
    weights: Annotated[
        Literal["ema", "raw"] | None,
        typer.Option(help="Which weights to read; default: ema if the file has averaged weights."),
    ] = None,
    name: Name = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="The tokenizer of a text model: a tokenizer.json, CLIP's vocab.json next to its merges.txt, BERT's "
            "vocab.txt or OpenCLIP's bpe_simple_vocab_16e6.txt.gz, or their folder; default: the one next to the "
            "checkpoint."
        ),
    ] = None,
    token_ids: Annotated[
        bool, typer.Option("--token-ids", help="Accept token ids in requests to a text or layout model.")
    ] = False,
    classes: Annotated[
        int | None, typer.Option(help="The number of labels of a layout model, whose requests have boxes.", min=1)
    ] = None,
    latent_scale: Annotated[
        float | None, typer.Option(help="The latent scale; default: from the file or the configuration.")
    ] = None,
    null_trained: Annotated[
        bool,
        typer.Option(
            "--null-trained",
            help="The model was trained with condition dropout, so it can be guided; the last class is the "
            "null condition.",
        ),
    ] = False,
    publish: Publish = False,
    alias: Alias = None,
    as_json: AsJson = False,
) -> None:
    """Convert a CompVis or Stable Diffusion checkpoint to a release folder.

    Every tensor must match; missing and unexpected tensors are listed. License files next to the checkpoint are copied.
    """
    if latent_scale is not None and not (math.isfinite(latent_scale) and latent_scale > 0):
        raise CommandError(f"--latent-scale: {latent_scale} is not allowed; permitted: a positive number")

    def convert(name: str) -> Imported:
        from training.model.interop.compvis.options import Options
        from training.model.interop.compvis.release import import_release

        options = Options(weights, tokenizer, None, token_ids, classes, latent_scale, null_trained)
        return import_release(checkpoint, config, output, name=name, options=options)

    import_model(convert, checkpoint, output, name, publish=publish, alias=alias, as_json=as_json)


Part = Annotated[Path | None, typer.Option(help="The folder of this part, instead of the pipeline's.")]


@app.command()
def diffusers(
    folder: Annotated[Path, typer.Argument(help="A folder that diffusers wrote. No code in it is executed.")],
    output: Output,
    autoencoder: Part = None,
    scheduler: Part = None,
    text_encoder: Part = None,
    tokenizer: Part = None,
    variant: Annotated[
        str | None, typer.Option(help="Read NAME.VARIANT.safetensors; default: those without, or else fp16.")
    ] = None,
    null_trained: Annotated[
        bool, typer.Option("--null-trained", help="The last class is the null condition, so guidance works.")
    ] = False,
    name: Name = None,
    publish: Publish = False,
    alias: Alias = None,
    as_json: AsJson = False,
) -> None:
    """Convert a diffusers folder to a release folder.

    Reads AutoencoderKL, VQModel, UNet2DModel and UNet2DConditionModel, alone or in a pipeline of latent diffusion or
    Stable Diffusion 1.x and 2.x. Every tensor must match, and whatever else cannot be read is named.
    """

    def convert(name: str) -> Imported:
        from training.model.interop.huggingface.reading import Sources
        from training.model.interop.huggingface.reading.release import import_release

        parts = Sources(autoencoder=autoencoder, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer)
        return import_release(folder, output, name=name, parts=parts, variant=variant, null_trained=null_trained)

    import_model(convert, folder.resolve(), output, name, publish=publish, alias=alias, as_json=as_json)


def import_model(
    convert: Callable[[str], Imported],
    source: Path,
    output: Path,
    name: str | None,
    *,
    publish: bool,
    alias: str | None,
    as_json: bool,
) -> None:
    """Call `convert` with the release's name, by default that of `source`; it writes the folder `output`.

    Publishes the release if wanted, and prints what was made. Raises CommandError for options that are not allowed.
    """
    name = name or re.sub(r"[^a-z0-9_-]+", "-", source.stem.lower()).strip("-") or "model"
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        raise CommandError(f"--name: {name!r} is not allowed; permitted: lower case letters, digits, - and _")
    if alias is not None and not publish:
        raise CommandError("--alias: needs --publish")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CommandError(f"--output: {output} already exists; give a new or empty folder")
    connected = connect("publisher") if publish else None  # fail now rather than after minutes of reading
    from rich.console import Console

    try:
        with Console(stderr=True).status(f"Reading {source}"):
            release, parameters = convert(name)
    except OSError as error:
        raise CommandError(f"--output: {output} cannot be written ({error.strerror})") from None
    made = {"path": str(output), "name": release.name, "kind": release.kind, "digest": release.digest}
    if not as_json:
        typer.echo(f"{output} is release {release.name} ({release.kind}), digest {release.digest[:12]}")
        print_table((), _rows(release, parameters))
    if connected is not None:
        from services.cli import publishing

        published = publishing.publish(*connected, output, name=None, alias=alias)
        made["published"] = f"{published.name}@{published.version}"
        if not as_json:
            publishing.print_published(published, as_json=False)
    if as_json:
        print_json(made)


def _rows(release: "Release", parameters: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    from training.model.interop.licenses import is_license

    for part, count in parameters.items():
        yield part, f"{count / 1e6:.2f}M parameters"
    yield "image", "x".join(map(str, release.image_shape))
    yield "latent", "x".join(map(str, release.latent_shape))
    match release.lineage.get("latent_scale"):
        case {"from": "not measured"}:
            yield "latent scale", "not measured; training a second stage on it measures it (--latent-scale states it)"
        case {"from": origin, "value": value}:
            yield "latent scale", f"{value:.5g} ({origin})"
    yield "conditions", ", ".join(release.conditions.get("properties", {})) or "none"
    if release.conditions.get("properties") and not release.guided:
        yield "guidance", "none: its null condition is not known to be trained (--null-trained states it)"
    if licenses := [name for name in release.files if is_license(name)]:
        yield "license", ", ".join(licenses)
    yield from _sampler(release)


def _sampler(release: "Release") -> list[tuple[str, str]]:
    """Return a row with the request that samples as the model's own scheduler does, if the import found out."""
    found = release.lineage.get("sampler")
    if found is None:
        return []
    return [("sampler", found if isinstance(found, str) else ", ".join(f"{k}: {v}" for k, v in found.items()))]
