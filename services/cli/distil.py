"""`darkroom distil`: distils a diffusion release into one that needs a few evaluations of one row each."""

import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from services.cli.evaluate import open_release
from services.cli.session import AsJson, ReleaseArgument, connect, finite
from services.cli.terminal import print_json
from services.errors import CommandError

if TYPE_CHECKING:
    from training.experiments.schema import DistillationExperiment
    from training.model.release import Release
    from training.recipes.distillation_loss import DistillationMethod

DISTANCE = "frechet_distance"
DataOption = Annotated[
    str | None, typer.Option(help="The images: a folder, an archive or s3://; default: those it was trained on.")
]


def distil(
    release: ReleaseArgument,
    data: DataOption = None,
    minutes: Annotated[
        float, typer.Option(help="How long to train; the evaluation follows.", min=0, callback=finite)
    ] = 20.0,
    method: Annotated[
        Literal["shortcut", "progressive"],
        typer.Option(help="Learn all numbers of evaluations at once, or one after another, most first."),
    ] = "shortcut",
    name: Annotated[str | None, typer.Option(help="The name of the new release; default: NAME-distilled.")] = None,
    alias: Annotated[str, typer.Option(help="The alias to point at the new release.")] = "candidate",
    images: Annotated[int, typer.Option(help="Images to sample for the evaluation.", min=32)] = 1000,
    within: Annotated[
        float,
        typer.Option(help="Publish only up to this multiple of the teacher's Fréchet distance; 0: always.", min=0),
    ] = 1.15,
    publish: Annotated[bool, typer.Option(help="Publish the new release if it meets --within.")] = True,
    as_json: AsJson = False,
) -> None:
    """Distil a release to 1, 2, 4 or 8 network evaluations.

    Trains a student, finds its best setting, compares it with its teacher by the same requests and seeds, and publishes
    it. The same command resumes.
    """
    with open_release(release) as folder:
        from training.evaluate_student import run_student
        from training.evaluation.second_stage import Sampling
        from training.experiments.teachers import check_teacher
        from training.model.release import read
        from training.train import train

        teacher = read(folder)
        check_teacher(teacher)
        student = check_published_name(name or f"{teacher.name}-distilled", alias)
        config, root = _prepare(teacher, folder, data, minutes, student, method, quiet=as_json)
        say(f"Training  {config.steps:,} steps of {config.batch_size} images, into {config.output}/", as_json)
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            made = train(config)
            found = run_student(
                made, folder, root, Path(config.output) / "evaluation", Sampling(images),
                lambda steps, distance: say(f"Measured  steps={steps}: Fréchet distance {distance:.4g}", as_json),
            )  # fmt: skip
    _check_gate(found.comparison, within, made)
    published = publish_student(release, made, found.metrics, alias) if publish else None
    if as_json:
        scores = {"best_steps": found.best_steps, DISTANCE: found.distances, "metrics": found.metrics,
                  "comparison": found.comparison}  # fmt: skip
        print_json({"release": str(made), **scores, **({"published": published} if publish else {})})
        return
    from rich.console import Console

    from training.evaluate import table_against

    Console(highlight=False).print(table_against(found.comparison))
    typer.echo(f"{Path(config.output) / 'evaluation' / 'comparison.png'}")
    typer.echo(f"{published}, which {student}@{alias} points at" if publish else str(made))


def check_published_name(name: str, alias: str) -> str:
    """Return the name of a release to publish. Raises RegistryError for a name or an alias that is not allowed."""
    from services.registry.aliases import check_alias
    from services.registry.releases import check_name

    check_alias(alias)
    return check_name(name)


def _prepare(
    teacher: "Release", folder: Path, data: str | None, minutes: float, name: str, method: "DistillationMethod", *,
    quiet: bool,
) -> "tuple[DistillationExperiment, Path]":  # fmt: skip
    """Return the experiment, and the folder of its image set."""
    from training import evaluate_student, prepare
    from training.experiments.teachers import check_images
    from training.planning import distillation as plans

    path = Path("experiments") / name / plans.FILE
    key = f"{teacher.name} ({teacher.digest[:12]}), {minutes:g} minutes, {data or 'its own images'}"
    key += "" if method == "shortcut" else f", {method}"
    is_planned = plans.is_written(path, key)
    fields = plans.draft(teacher, folder, plans.find_images(teacher, data), name, method)
    config = plans.load(path) if is_planned else plans.load_draft(fields)
    found = prepare.images(config.data)
    check_images(config.data, teacher, found)
    evaluate_student.check(teacher, found)
    taught = teacher.lineage.get("data", {}).get("fingerprint")
    if taught is not None and taught != found.description.fingerprint:
        say(f"note: these are not the images that {teacher.name} was trained on", quiet)
    if not is_planned:
        fields["batch_size"] = min(fields["batch_size"], len(found.rows("train")))
        steps, seconds = plans.choose_steps(replace(config, batch_size=fields["batch_size"]), found, 60 * minutes)
        plans.write(path, {**fields, "steps": steps, "pictures_every": max(1, steps // plans.PREVIEWS)}, key)
        config = plans.load(path)
        say(f"Chosen    {path}; a step takes {seconds:.2f} s here", quiet)
    return config, prepare.set_folder(config.data)


def _check_gate(comparison: dict[str, Any], within: float, folder: Path) -> None:
    """Raise CommandError if the student is too far from the real images, compared with its teacher."""
    figure = comparison["figures"].get(DISTANCE) or comparison["figures"]["sliced_wasserstein_distance"]
    ratio = figure["release"] / figure["against"]
    if within and ratio > within:
        raise CommandError(
            f"refused: its distance to the real images is {ratio:.2f} of the teacher's; permitted: at most "
            f"--within {within:g}. It is in {folder}; train longer with --minutes, or give another --within"
        )


def publish_student(teacher: str, folder: Path, metrics: dict[str, Any], alias: str) -> str:
    """Publish the student with its evaluation. Raises RegistryError for a teacher that was retired meanwhile."""
    from services.registry import evaluations

    reference = publish_made(teacher, folder, alias)
    _, engine = connect("publisher")
    with engine.begin() as connection:
        evaluations.record_evaluation(connection, reference, metrics["fingerprint"], metrics)
    engine.dispose()
    return reference


def publish_made(teacher: str, folder: Path, alias: str) -> str:
    """Publish a release that was made of another one, and return its reference.

    Raises RegistryError for a teacher that was retired meanwhile.
    """
    from services.cli import publishing
    from services.cli.stack import start_if_local
    from services.registry import releases

    start_if_local()
    settings, engine = connect("publisher")
    try:
        if not Path(teacher).is_dir():
            with engine.connect() as connection:
                releases.find(connection, teacher)
        done = publishing.publish(settings, engine, folder, name=None, alias=alias)
        return f"{done.name}@{done.version}"
    finally:
        engine.dispose()


def say(line: str, quiet: bool) -> None:
    """Print a line. quiet: to stderr, because stdout is for the answer."""
    typer.echo(line, err=quiet)
