"""`darkroom train`: from a folder of pictures to a published release, in a given time."""

import sys
import time
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kfp_pipelines.commands.base import resolve_base
from services.cli.session import AsJson, finite
from services.cli.terminal import print_json
from services.errors import CommandError

if TYPE_CHECKING:
    from training.planning.plan import Plan


def train(
    source: Annotated[str, typer.Argument(metavar="PICTURES", help="A folder, an archive or s3://bucket/prefix/.")],
    name: Annotated[str, typer.Option(help="The name of the release.")],
    minutes: Annotated[
        float, typer.Option(help="Time limit for all stages, in minutes.", min=0, callback=finite)
    ] = 40.0,
    condition: Annotated[str, typer.Option(help="auto, class, caption or none.")] = "auto",
    size: Annotated[
        int | None, typer.Option(help="Image size in pixels; default: chosen from the images and the time.")
    ] = None,
    keep_aspect: Annotated[
        bool, typer.Option("--keep-aspect", help="Keep aspect ratios: train on several shapes instead of squares.")
    ] = False,
    first_stage: Annotated[
        str, typer.Option(help="auto: a published first stage if it fits the pictures; new; or name@alias.")
    ] = "auto",
    base: Annotated[
        str | None,
        typer.Option(
            "--from", help="A release to fine-tune: a folder, or a published name, name@alias or name@version."
        ),
    ] = None,
    alias: Annotated[str, typer.Option(help="The alias to point at the new release.")] = "candidate",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only choose the settings and write the experiment files.")
    ] = False,
    submit: Annotated[bool, typer.Option("--submit", help="Run on Kubeflow instead of this machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train or fine-tune a model on pictures, and publish it.

    Looks at the pictures, chooses the models and the steps that fit into the time on this machine, and writes the
    experiment files to experiments/NAME/. The same command resumes, also with files that you have edited. With --from
    the training begins with the weights of a release, and needs few pictures.
    """
    began = time.monotonic()
    if condition not in ("auto", "class", "caption", "none"):
        raise CommandError(f"--condition: {condition!r} is not allowed; permitted: auto, class, caption, none")
    if submit and not source.startswith("s3://"):
        raise CommandError(f"PICTURES: a cluster cannot read {source}; permitted with --submit: s3://BUCKET/PREFIX/")
    if base is not None:
        base = resolve_base(base)
        if submit and Path(base).is_absolute():
            raise CommandError(f"--from: a cluster cannot read {base}; permitted with --submit: a published release")
    from kfp_pipelines.commands.planning import prepare_plan
    from services.registry.aliases import check_alias
    from services.registry.releases import NAME
    from training.planning.plan import Options

    if not NAME.fullmatch(name) or len(name) > 50:
        raise CommandError(f"--name: {name!r} is not allowed; permitted: a-z, 0-9, _ and -, first a letter, at most 50")
    check_alias(alias)
    source = source if source.startswith("s3://") else str(Path(source).absolute())
    options = Options(source, name, minutes, condition, size, alias, keep_aspect, first_stage, base)  # type: ignore[arg-type]  # checked above
    folder = Path("experiments") / name
    has_registry = first_stage not in ("auto", "new") or not (dry_run or submit)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        plan = prepare_plan(options, folder, began, has_registry=has_registry)
        run = run_on_cluster if submit else run_on_this_machine
        made = {} if dry_run else run(plan, folder)
    if as_json:
        print_json({"folder": str(folder), "plan": asdict(plan), **made})


def run_on_this_machine(plan: "Plan", folder: Path) -> dict[str, Any]:
    """Run the pipeline, and say what came of it. Returns it as JSON."""
    from rich.console import Console

    from kfp_pipelines.commands.local_run import run_here
    from kfp_pipelines.commands.pipeline import local_defaults, parse_arguments
    from kfp_pipelines.commands.planning import report_result
    from services.cli.session import connect
    from services.cli.stack import start_if_local
    from training.planning.plan import arguments

    start_if_local()
    settings, engine = connect("publisher")
    given = parse_arguments(plan.variant, arguments(plan, folder))
    run_here(
        plan.variant,
        {**local_defaults(settings, plan.variant), **given, "gate": []},
        Console(highlight=False, soft_wrap=True),
        expected=plan.seconds,
    )
    return report_result(plan, folder, settings, engine)


def run_on_cluster(plan: "Plan", folder: Path) -> dict[str, Any]:
    """Submit the pipeline to Kubeflow. Returns the run as JSON."""
    from kfp_pipelines.commands.pipeline import upload
    from training.planning.plan import arguments

    target = upload(plan.variant, arguments(plan, folder), None, [])
    run_id = target.cluster.run(target.package, {**target.arguments, "gate": []}, "darkroom")
    link = target.cluster.link(run_id)
    typer.echo(f"{target.package.name} {target.package.version}\n{link}")
    typer.echo("The steps were chosen for this machine; edit the files and submit again for another one.")
    typer.echo(f"Follow it with: darkroom pipeline status {run_id}")
    return {"run": run_id, "link": link}
