"""`darkroom pipeline`: the training pipeline, compiled for a cluster or run on this machine."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from services.cli.stack import CommandError, connect
from services.settings import ROOT_VARIABLE, Settings, root

app = typer.Typer(help="The training pipeline.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)

Variant = Annotated[str, typer.Argument(help="full, diffusion, fine-tune or sweep")]
Pairs = Annotated[list[str] | None, typer.Argument(help="name=value of its parameters; again for more of a list.")]
Profiles = Annotated[Path | None, typer.Option(help="A file of node profiles.", envvar="DARKROOM_PROFILES")]
Profile = Annotated[list[str] | None, typer.Option(help="STAGE=NAME, or NAME for all other stages; may be repeated.")]
TOLD = (
    "gate: ",
    "published ",
    "promoted ",
    "smoke: ",
    "sweep: ",
    "going on from ",
    "run ",
)  # lines of stages that are shown


@app.command("parameters")
def show_parameters(variant: Variant = "full") -> None:
    """List a variant's parameters and what they are by default."""
    from rich.table import Table

    from kfp_pipelines.arguments import ArgumentError, parameters

    table = Table("parameter", "of", "default", box=None)
    try:
        for name, one in parameters(variant).items():
            kind = f"{one.kind.__name__}, several" if one.of_list else one.kind.__name__
            table.add_row(name, kind, "must be given" if one.required else json.dumps(one.default))
    except ArgumentError as error:
        raise CommandError(str(error)) from None
    console.print(table)


@app.command("compile")
def compile_pipeline(
    variant: Variant = "full",
    output: Annotated[Path | None, typer.Option(help="The YAML package to write; default: VARIANT.yaml")] = None,
    profiles: Profiles = None,
    profile: Profile = None,
) -> None:
    """Compile a pipeline for Kubeflow. The image is DARKROOM_IMAGE."""
    from kfp_pipelines.pipeline import STAGES, VARIANTS, compile_to
    from kfp_pipelines.profiles import ProfileError, read

    path = output or Path(f"{variant}.yaml")
    if variant not in VARIANTS:
        raise CommandError(f"variant: {variant!r} is not known; permitted: {', '.join(VARIANTS)}")
    if not path.parent.is_dir():
        raise CommandError(f"--output: the folder {path.parent} does not exist")
    try:
        compile_to(path, variant, read(profiles, profile or [], STAGES))
    except ProfileError as error:
        raise CommandError(str(error)) from None
    console.print(str(path.resolve()))


@app.command("run")
def run_pipeline(variant: Variant = "full", parameters: Pairs = None) -> None:
    """Run a pipeline on this machine and publish what it makes."""
    settings, _ = connect("publisher")  # before training for minutes, see that publishing will find its way
    arguments = asked(variant, parameters or [])
    execute(variant, {**on_this_machine(settings, variant), **arguments}, console)


def asked(variant: str, pairs: Sequence[str]) -> dict[str, Any]:
    """The arguments of a run, checked, with the version of its data. Raises CommandError."""
    from kfp_pipelines import data_version
    from kfp_pipelines.arguments import ArgumentError, parse

    try:
        arguments = parse(variant, pairs)
        version = data_version.of(arguments.get("data", ""), arguments.get("data_overrides", []))
    except (ArgumentError, data_version.DataVersionError) as error:
        raise CommandError(f"{error}\nSee: darkroom pipeline parameters {variant}") from None
    return {"data_version": version, **arguments}


def on_this_machine(settings: Settings, variant: str) -> dict[str, Any]:
    """What differs from a cluster: no worker may be running, so no smoke job is waited for unless one is asked for."""
    checkpoints = {"checkpoints": f"s3://{settings.s3_bucket}/checkpoints"}
    return checkpoints if variant == "sweep" else {**checkpoints, "smoke_images": 0}


def execute(variant: str, arguments: dict[str, Any], console: Console) -> list[tuple[str, float]]:
    """Run the pipeline with its progress shown. Returns each stage's name and seconds."""
    import os

    from kfp_pipelines import local

    os.environ[ROOT_VARIABLE] = str(root())  # the stages find the same stack, wherever they run
    stages: list[tuple[str, float]] = []
    began = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("starting the pipeline")
        current: str | None = None

        def end_stage() -> None:
            nonlocal began
            if current is not None:
                stages.append((current, time.monotonic() - began))
                progress.console.print(f"  {current:24}{stages[-1][1]:7.1f} s")
            began = time.monotonic()

        def on_stage(name: str) -> None:
            nonlocal current
            end_stage()
            current = name
            progress.reset(bar)
            progress.update(bar, description=name)

        def on_line(line: str) -> None:
            if line.strip().startswith(TOLD):
                progress.console.print(f"    {line.strip()}")
            elif current is not None and (step := _step_of(line)):
                progress.update(bar, description=f"{current}  {step}")

        try:
            local.run(variant, arguments, root() / "pipeline", on_stage=on_stage, on_line=on_line)
        except local.PipelineError as error:
            raise CommandError(str(error)) from None
        end_stage()
    return stages


def _step_of(line: str) -> str:
    """The progress that a stage reports, from a line of its output; empty for other lines."""
    import re

    match = re.search(r"step\s+(\d+)\s*/\s*(\d+).*", line)
    return match[0] if match else ""
