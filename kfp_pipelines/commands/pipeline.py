"""`darkroom pipeline`: the training pipeline, compiled for a cluster or run on this machine."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from services.cli.session import AsJson, connect
from services.errors import CommandError
from services.local_stack.state import ROOT_VARIABLE
from services.settings import Settings, load_store, root

app = typer.Typer(help="The training pipeline.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)

Variant = Annotated[str, typer.Argument(help="full, diffusion, fine-tune or sweep")]
Pairs = Annotated[list[str] | None, typer.Argument(help="name=value of its parameters; again for more of a list.")]
Profiles = Annotated[Path | None, typer.Option(help="A file of node profiles.", envvar="DARKROOM_PROFILES")]
Profile = Annotated[list[str] | None, typer.Option(help="STAGE=NAME, or NAME for all other stages; may be repeated.")]
Experiment = Annotated[str, typer.Option(help="Under which of Kubeflow's experiments runs are listed.")]
EXIT_FAILED = 3
BEGUN_WITH = {"autoencoder", "base"}  # parameters that are releases
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

    from kfp_pipelines.definition.arguments import ArgumentError, parameters

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
    from kfp_pipelines.build import image
    from kfp_pipelines.definition.pipeline import VARIANTS, compile_to
    from kfp_pipelines.definition.placement import STAGES, Stages
    from kfp_pipelines.profiles import read

    path = output or Path(f"{variant}.yaml")
    if variant not in VARIANTS:
        raise CommandError(f"variant: {variant!r} is not known; permitted: {', '.join(VARIANTS)}")
    if not path.parent.is_dir():
        raise CommandError(f"--output: the folder {path.parent} does not exist")
    with told():
        compile_to(path, variant, Stages(read(profiles, profile or [], STAGES), image=image()))
    console.print(str(path.resolve()))


@app.command("run")
def run_pipeline(variant: Variant = "full", parameters: Pairs = None) -> None:
    """Run a pipeline on this machine and publish what it makes."""
    from services.registry import releases

    settings, engine = connect("publisher")  # before training for minutes, see that publishing will find its way
    arguments = asked(variant, parameters or [])
    with engine.connect() as connection:
        for name in BEGUN_WITH & arguments.keys():
            releases.find(connection, arguments[name])
    execute(variant, {**on_this_machine(settings, variant), **arguments}, console)


def asked(variant: str, pairs: Sequence[str]) -> dict[str, Any]:
    """The arguments of a run, checked, with the version of its data. Raises CommandError."""
    from kfp_pipelines.definition.arguments import ArgumentError, parse
    from kfp_pipelines.running import data_version

    try:
        arguments = parse(variant, pairs)
        version = data_version.of(arguments.get("data", ""), arguments.get("data_overrides", []))
    except (ArgumentError, data_version.DataVersionError) as error:
        raise CommandError(f"{error}\nSee: darkroom pipeline parameters {variant}") from None
    return {"data_version": version, **arguments}


@app.command()
def submit(
    variant: Variant = "full",
    parameters: Pairs = None,
    profiles: Profiles = None,
    profile: Profile = None,
    experiment: Experiment = "darkroom",
    as_json: AsJson = False,
) -> None:
    """Upload a pipeline to Kubeflow and run it. Where Kubeflow is: DARKROOM_KFP_*."""
    with told():
        cluster, uploaded, arguments = _uploaded(variant, parameters or [], profiles, profile or [])
        run_id = cluster.run(uploaded, arguments, experiment)
    if as_json:
        typer.echo(json.dumps({"run": run_id, "pipeline": uploaded.name, "version": uploaded.version}))
    else:
        console.print(f"{uploaded.name} {uploaded.version}\n{cluster.link(run_id)}")
        console.print(f"Follow it: darkroom pipeline status {run_id}")


@app.command()
def schedule(
    cron: Annotated[str, typer.Argument(help="Six fields, seconds first, in UTC: '0 0 3 * * *' is 3 o'clock.")],
    variant: Variant = "full",
    parameters: Pairs = None,
    profiles: Profiles = None,
    profile: Profile = None,
    experiment: Experiment = "darkroom",
) -> None:
    """Upload a pipeline to Kubeflow and run it again and again, one run at a time."""
    from kfp_pipelines.running.cluster import check_cron

    with told():
        check_cron(cron)
        cluster, uploaded, arguments = _uploaded(variant, parameters or [], profiles, profile or [], fresh_data=True)
        recurring = cluster.schedule(uploaded, arguments, experiment, cron)
    console.print(f"{uploaded.name} {uploaded.version} runs at {cron}; schedule {recurring}")


@app.command()
def status(run_id: Annotated[str, typer.Argument(help="The id that submit printed.")], as_json: AsJson = False) -> None:
    """Show how a run goes, stage by stage. Exit code 0 unless it failed, 3 if it did."""
    from rich.table import Table

    from kfp_pipelines.running.cluster import Cluster

    with told():
        run = Cluster.connect().status(run_id)
    stages = [
        {"stage": task.display_name, "state": task.state, "error": task.error.message if task.error else ""}
        for task in (run.run_details.task_details if run.run_details else None) or ()
        if task.display_name
    ]
    if as_json:
        typer.echo(json.dumps({"run": run_id, "state": run.state, "stages": stages}))
    else:
        table = Table("stage", "state", "", box=None)
        for stage in stages:
            table.add_row(stage["stage"], stage["state"], stage["error"])
        console.print(f"{run.display_name}: {run.state}", table, sep="\n")
    if run.state == "FAILED":
        raise typer.Exit(EXIT_FAILED)


def _uploaded(
    variant: str, pairs: Sequence[str], profiles: Path | None, chosen: Sequence[str], *, fresh_data: bool = False
) -> Any:
    """The cluster, the package on it, and the arguments of a run."""
    from tempfile import TemporaryDirectory

    from kfp_pipelines.build import image
    from kfp_pipelines.definition.pipeline import compile_to
    from kfp_pipelines.definition.placement import STAGES, Stages
    from kfp_pipelines.profiles import read
    from kfp_pipelines.running.cluster import Cluster, check_image

    arguments = asked(variant, pairs)
    if "checkpoints" not in arguments:
        arguments["checkpoints"] = f"s3://{load_store().s3_bucket}/checkpoints"
    check_image(image())
    stages = Stages(read(profiles, chosen, STAGES), image=image(), fresh_data=fresh_data)
    cluster = Cluster.connect()
    with TemporaryDirectory() as folder:
        package = Path(folder) / f"{variant}.yaml"
        compile_to(package, variant, stages)
        return cluster, cluster.upload(package), arguments


@contextmanager
def told() -> Iterator[None]:
    """A person's mistakes, and a cluster's, as one line."""
    from kfp_pipelines.profiles import ProfileError
    from kfp_pipelines.running.cluster import ClusterError

    try:
        yield
    except (ClusterError, ProfileError) as error:
        raise CommandError(str(error)) from None


def on_this_machine(settings: Settings, variant: str) -> dict[str, Any]:
    """What differs from a cluster: no worker may be running, so no smoke job is waited for unless one is asked for."""
    checkpoints = {"checkpoints": f"s3://{settings.s3_bucket}/checkpoints"}
    return checkpoints if variant == "sweep" else {**checkpoints, "smoke_images": 0}


def execute(variant: str, arguments: dict[str, Any], console: Console) -> list[tuple[str, float]]:
    """Run the pipeline with its progress shown. Returns each stage's name and seconds."""
    import os

    from kfp_pipelines.running import local

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
