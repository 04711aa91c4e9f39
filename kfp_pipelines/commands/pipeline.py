"""`darkroom pipeline`: the training pipeline, compiled for a cluster or run on this machine."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.commands import command_group
from services.cli.session import AsJson, connect
from services.cli.terminal import print_json, print_table
from services.errors import EXIT_NOT_SUCCEEDED, CommandError

if TYPE_CHECKING:
    from kfp_pipelines.running.cluster import Cluster, Uploaded
    from services.settings import Settings
    from services.storage.object_store import ObjectStore

app = command_group("Run the training pipeline here or in Kubeflow.")

Variant = Annotated[str, typer.Argument(help="full, diffusion, fine-tune, distil or sweep.")]
Pairs = Annotated[
    list[str] | None, typer.Argument(help="Parameters as name=value; repeat a list parameter for each of its values.")
]
Profiles = Annotated[Path | None, typer.Option(help="A file of node profiles.", envvar="DARKROOM_PROFILES")]
Profile = Annotated[list[str] | None, typer.Option(help="STAGE=NAME, or NAME for all other stages; may be repeated.")]
Experiment = Annotated[str, typer.Option(help="The experiment of Kubeflow that the runs belong to.")]
RELEASE_PARAMETERS = {"autoencoder", "base", "teacher"}  # parameters that name releases


@app.command("parameters")
def show_parameters(variant: Variant = "full", as_json: AsJson = False) -> None:
    """List the parameters of a pipeline and their defaults."""
    from kfp_pipelines.definition.arguments import parameters

    found = parameters(variant)
    if as_json:
        print_json(
            [
                {"name": name, "type": one.kind.__name__, "list": one.of_list, "required": one.required,
                 "default": None if one.required else one.default}
                for name, one in found.items()
            ]
        )  # fmt: skip
        return
    cells = [
        (
            name,
            f"{one.kind.__name__}, repeatable" if one.of_list else one.kind.__name__,
            "required" if one.required else json.dumps(one.default),
        )
        for name, one in found.items()
    ]
    print_table(("parameter", "type", "default"), cells)


@app.command("compile")
def compile_pipeline(
    variant: Variant = "full",
    output: Annotated[Path | None, typer.Option(help="The YAML package to write; default: VARIANT.yaml.")] = None,
    profiles: Profiles = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Compile a pipeline for Kubeflow. Its container image is DARKROOM_IMAGE."""
    from kfp_pipelines import build
    from kfp_pipelines.definition.pipeline import VARIANTS, compile_to
    from kfp_pipelines.definition.placement import STAGES, Stages
    from kfp_pipelines.profiles import read_profiles

    path = output or Path(f"{variant}.yaml")
    if variant not in VARIANTS:
        raise CommandError(f"variant: {variant!r} is not known; permitted: {', '.join(VARIANTS)}")
    if path.suffix != ".yaml":
        raise CommandError(f"--output: {str(path)!r} is not allowed; permitted: a path that ends in .yaml")
    if not path.parent.is_dir():
        raise CommandError(f"--output: the folder {path.parent} does not exist")
    compile_to(path, variant, Stages(read_profiles(profiles, profile or [], STAGES), image=build.image()))
    if as_json:
        print_json({"path": str(path.resolve())})
    else:
        typer.echo(path.resolve())


@app.command("run")
def run_pipeline(variant: Variant = "full", parameters: Pairs = None) -> None:
    """Run a pipeline on this machine and publish its releases."""
    from rich.console import Console

    from kfp_pipelines.commands.local_run import run_here
    from services.registry import releases

    settings, engine = connect("publisher")  # fail now rather than after minutes of training
    arguments = parse_arguments(variant, parameters or [])
    with engine.connect() as connection:
        for name in RELEASE_PARAMETERS & arguments.keys():
            row = releases.find(connection, arguments[name])
            if name == "teacher":
                from training.experiments.teachers import check_teacher  # loads torch
                from training.model.release import parse

                check_teacher(parse(row.manifest))
    console = Console(highlight=False, soft_wrap=True)
    run_here(variant, {**local_defaults(settings, variant), **arguments}, console)


@app.command()
def submit(
    variant: Variant = "full",
    parameters: Pairs = None,
    profiles: Profiles = None,
    profile: Profile = None,
    experiment: Experiment = "darkroom",
    as_json: AsJson = False,
) -> None:
    """Upload a pipeline to Kubeflow and run it.

    DARKROOM_KFP_* variables say where Kubeflow is.
    """
    target = upload(variant, parameters or [], profiles, profile or [])
    run_id = target.cluster.run(target.package, target.arguments, experiment)
    name, version = target.package.name, target.package.version
    if as_json:
        print_json({"run": run_id, "pipeline": name, "version": version})
    else:
        typer.echo(f"{name} {version}\n{target.cluster.link(run_id)}")
        typer.echo(f"Follow it with: darkroom pipeline status {run_id}")


@app.command()
def schedule(
    cron: Annotated[
        str, typer.Argument(help="Six fields, seconds first, in UTC: '0 0 3 * * *' is 3 o'clock every night.")
    ],
    variant: Variant = "full",
    parameters: Pairs = None,
    profiles: Profiles = None,
    profile: Profile = None,
    experiment: Experiment = "darkroom",
    as_json: AsJson = False,
) -> None:
    """Upload a pipeline to Kubeflow and run it on a schedule, one run at a time."""
    from kfp_pipelines.running.cron import check_cron

    check_cron(cron)
    target = upload(variant, parameters or [], profiles, profile or [], fresh_data=True)
    schedule_id = target.cluster.schedule(target.package, target.arguments, experiment, cron)
    name, version = target.package.name, target.package.version
    if as_json:
        print_json({"schedule": schedule_id, "pipeline": name, "version": version})
    else:
        typer.echo(f"{name} {version} runs at {cron}; schedule {schedule_id}")


@app.command()
def status(
    run_id: Annotated[str, typer.Argument(help="The id that `submit` printed.")], as_json: AsJson = False
) -> None:
    """Show the state of a run and its stages. Exit code 3 if the run failed."""
    from kfp_pipelines.commands.cluster_settings import load_cluster
    from kfp_pipelines.running.cluster import Cluster

    run = Cluster(load_cluster()).status(run_id)
    stages = [
        {"stage": task.display_name, "state": task.state, "error": task.error.message if task.error else ""}
        for task in (run.run_details.task_details if run.run_details else None) or ()
        if task.display_name
    ]
    if as_json:
        print_json({"run": run_id, "state": run.state, "stages": stages})
    else:
        typer.echo(f"{run.display_name}: {run.state}")
        print_table(("stage", "state", ""), [(one["stage"], one["state"], one["error"]) for one in stages])
    if run.state == "FAILED":
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


@dataclass(frozen=True)
class Target:
    """A cluster, a package on it, and the arguments of a run."""

    cluster: "Cluster"
    package: "Uploaded"
    arguments: dict[str, Any]


def upload(
    variant: str, pairs: Sequence[str], profiles: Path | None, choices: Sequence[str], *, fresh_data: bool = False
) -> Target:
    """Check the arguments, and compile and upload the pipeline."""
    from tempfile import TemporaryDirectory

    from kfp_pipelines import build
    from kfp_pipelines.commands.cluster_settings import load_cluster
    from kfp_pipelines.definition import arguments as definition
    from kfp_pipelines.definition.pipeline import compile_to
    from kfp_pipelines.definition.placement import STAGES, Stages
    from kfp_pipelines.profiles import read_profiles
    from kfp_pipelines.running.cluster import Cluster, check_image
    from services.settings import load_store

    placed = read_profiles(profiles, choices, STAGES)
    devices = {name: placed.devices(stage) for name, stage in definition.STAGES.items() if placed.devices(stage) > 1}
    arguments = parse_arguments(variant, pairs, devices)
    if "checkpoints" not in arguments:
        arguments["checkpoints"] = f"s3://{load_store().s3_bucket}/checkpoints"
    image = build.image()
    check_image(image)
    stages = Stages(placed, image=image, fresh_data=fresh_data)
    cluster = Cluster(load_cluster())
    with TemporaryDirectory() as folder:
        package = Path(folder) / f"{variant}.yaml"
        compile_to(package, variant, stages)
        return Target(cluster, cluster.upload(package, build.commit()), arguments)


def parse_arguments(variant: str, pairs: Sequence[str], devices: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the checked arguments of a run with the version of its data. Raises CommandError. devices: see `parse`."""
    from kfp_pipelines.definition.arguments import NO_DEVICES, ArgumentError, parse
    from kfp_pipelines.definition.pipeline import VARIANTS
    from kfp_pipelines.running.data_version import DataVersionError, find_version

    try:
        arguments = parse(variant, pairs, devices or NO_DEVICES)
        version = find_version(arguments.get("data", ""), arguments.get("data_overrides", []), open_store)
    except (ArgumentError, DataVersionError) as error:
        hint = f"\nSee: darkroom pipeline parameters {variant}" if variant in VARIANTS else ""
        raise CommandError(f"{error}{hint}") from None
    return {"data_version": version, **arguments}


def open_store(bucket: str) -> "ObjectStore":
    """Open a bucket of the store that the environment names."""
    from services.settings import load_store
    from services.storage.object_store import ObjectStore

    return ObjectStore.connect(load_store(), bucket)


def local_defaults(settings: "Settings", variant: str) -> dict[str, Any]:
    """Return the defaults of a run on this machine: no smoke job, because no worker may be running."""
    checkpoints = {"checkpoints": f"s3://{settings.s3_bucket}/checkpoints"}
    return checkpoints if variant == "sweep" else {**checkpoints, "smoke_images": 0}
