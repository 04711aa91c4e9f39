"""The steps of `darkroom train` around the pipeline: survey the pictures, print the plan, and show the result."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kfp_pipelines.commands.base import open_base
from kfp_pipelines.commands.first_stage import choose_published
from services.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Engine

    from services.settings import Settings
    from training.data.own_images.inspection import Inspection
    from training.planning.budget import Start
    from training.planning.fine_tuning import Base
    from training.planning.first_stages import Published
    from training.planning.models import Device
    from training.planning.plan import Options, Plan
    from training.planning.survey import Survey

LOOK = 512  # pictures to open
CLASSES_SHOWN = 8
# Forks two stages that do nothing, as a local run does. The first waits for the imports.
FORK_STAGES = """
import multiprocessing, time; began = time.monotonic()
from kfp_pipelines.running.stage_processes import fork_stages
fork_stages()
for _ in range(2):
    stage = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(0,))
    stage.start(); stage.join(); print(time.monotonic() - began)
"""
COPIED = 0.05  # warn from this share of samples that are suspiciously near to training images
SCORES = ("frechet_distance", "class_accuracy", "psnr", "nearer_than_any_held_out_image")


def prepare_plan(options: "Options", folder: Path, began: float, *, has_registry: bool) -> "Plan":
    """Return the plan of earlier, or look at the pictures and make one. Raises PlanError or CommandError.

    began: when the command began, as time.monotonic(). has_registry: whether published first stages are considered.
    """
    from services.cli.stack import start_if_local
    from services.local_stack.state import stack_root
    from training.data.image_set import DataError
    from training.data.own_images.inspection import inspect
    from training.data.own_images.prepare import Settings, source_stamp
    from training.planning import plan as plans
    from training.planning.budget import Machine, check_start
    from training.planning.fine_tuning import check_fit
    from training.planning.models import PIXELS, candidate_sizes
    from training.planning.survey import choose_condition, survey

    try:
        stamp = source_stamp(options.source, Settings(image_size=1, channels=3))
    except DataError as error:
        raise CommandError(str(error).replace("data.root:", "PICTURES:", 1)) from None
    earlier = plans.Plan.read(folder)
    if earlier is not None and earlier.fits(options, stamp) and plans.are_written(folder, earlier):
        typer.echo(f"Continuing with the plan in {folder}/. Delete that folder to make a new plan.")
        edited = replace(earlier, seconds=seconds_of_files(earlier, folder))
        line("Ends", describe_end(edited) + "; earlier if stages were completed before")
        return edited
    if earlier is not None and plans.are_edited(folder):
        raise CommandError(
            f"{folder}/ holds experiment files that you edited, for other options or pictures; "
            "give another --name, or move the folder away"
        )
    looking = time.monotonic()
    try:
        inspection = inspect(options.source, LOOK)
    except DataError as error:
        raise CommandError(str(error).replace("data.root:", "PICTURES:", 1)) from None
    found = survey(inspection)
    read = (time.monotonic() - looking) / max(1, len(inspection.looks))
    describe_pictures(inspection, found)
    published: Published | Base | None = None
    if options.base is not None:
        published = open_base(options.base)
        check_fit(published, found, options)
    else:
        choose_condition(found, options.condition)
        size = max(candidate_sizes(found, device(), options.size))
    folder.mkdir(parents=True, exist_ok=True)  # fails now rather than after a minute of measuring
    start = measure_start()
    check_start(start, options.minutes, time.monotonic() - began)
    if options.base is None and has_registry and size > PIXELS:
        start_if_local()
        published = choose_published(options.first_stage, inspection, size)
    machine = Machine(device(), read, start, lambda: time.monotonic() - began)
    made, experiments = plans.make(found, inspection, options, stamp, machine, published)
    plans.check_disk(stack_root(), made, found.images)
    plans.write(folder, made, experiments)
    describe_plan(made, folder, found, published)
    return made


def device() -> "Device":
    """Return the device that training uses here."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def measure_start() -> "Start":
    """Return the seconds until stages start, by starting two that do nothing."""
    from training.planning.budget import Start

    done = subprocess.run([sys.executable, "-c", FORK_STAGES], check=True, stdout=subprocess.PIPE, text=True)
    first, second = map(float, done.stdout.split())
    return Start(imports=first, stage=second - first)


def describe_pictures(inspection: "Inspection", found: "Survey") -> None:
    """Print what was found, and what will be left out."""
    from training.planning.survey import most_frequent

    colour = "grey" if found.channels == 1 else "in colour"
    least = "" if found.complete else "at least "
    size = f"{found.side}x{found.side}" if found.same_size else f"{found.side} pixels on the shorter side (median)"
    line("Found", f"{least}{found.images:,} pictures, {colour}, {size}")
    if found.classes:
        names = ", ".join(most_frequent(found.classes, CLASSES_SHOWN))
        line("", f"{len(found.classes):,} classes, from {inspection.labels_from}: {names}")
    for alike in inspection.alike:
        line("", f"classes that differ in upper case or spaces alone: {', '.join(map(repr, alike))}")
    if inspection.untrained:
        untrained = ", ".join(inspection.untrained[:CLASSES_SHOWN])
        line("", f"never trained on, because all pictures of the class are held out: {untrained}")
    for name, told in inspection.tables.items():
        line("", f"table {name}: {told}")
    if inspection.with_text:
        line("", f"{inspection.with_text:,} with a caption, such as: {inspection.texts[0][:60]}")
    if inspection.splits:
        line("", f"{inspection.splits['held_out']:,} held out by your own split")
    for reason, left in inspection.left_out.items():
        line("", f"left out: {len(left):,} {reason} ({', '.join(left[:2])}{', ...' if len(left) > 2 else ''})")


def describe_plan(plan: "Plan", folder: Path, found: "Survey", published: "Published | Base | None") -> None:
    """Print what will be done, and when it ends."""
    from training.data.aspect_buckets import bucket_sizes
    from training.planning.survey import describe_no_condition

    chosen = plan.options.condition == "auto" and plan.base is None
    condition = {
        "class": "one class at a time, by name",
        "caption": "by caption",
        "none": "without a condition" + (f": {describe_no_condition(found)}" * chosen),
    }[plan.condition]
    line("Will", f"train at {plan.size}x{plan.size} pixels, to be sampled {condition}")
    if plan.bucket_step is not None:
        shapes = bucket_sizes(plan.size, plan.bucket_step)
        line("", f"keep aspect ratios, in {len(shapes)} shapes: {', '.join(f'{w}x{h}' for w, h in sorted(shapes))}")
    if plan.condition == "caption" and len(found.classes) > 1:
        line("", "the classes are not used" + "; --condition class uses them instead of captions" * (plan.base is None))
    for told in describe_stages(plan, found, published):
        line("", told)
    line("", f"evaluate {plan.samples:,} samples, publish, and point {plan.options.name}@{plan.options.alias} at it")
    files = "diffusion.yaml; edit it" if published is not None else "autoencoder.yaml and diffusion.yaml; edit them"
    line("Files", f"{folder}/{files} and run the same command again")
    line("Ends", describe_end(plan))


def seconds_of_files(plan: "Plan", folder: Path) -> dict[str, float]:
    """Return what each stage should take with the steps that the files state now. Raises ExperimentError."""
    from training.experiments import compose
    from training.planning.plan import AUTOENCODER, DIFFUSION

    seconds = dict(plan.seconds)
    if "train-autoencoder" in seconds:
        seconds["train-autoencoder"] *= compose.load(str(folder / AUTOENCODER)).steps / plan.first_steps
    steps = compose.load(str(folder / DIFFUSION), ["autoencoder=x"]).steps
    seconds["train-diffusion"] *= steps / plan.second_steps
    return seconds


def describe_end(plan: "Plan") -> str:
    """Return when a run of the whole plan ends."""
    from kfp_pipelines.commands.expected_end import ExpectedEnd

    return f"in {plan.total / 60:.0f} minutes, {ExpectedEnd(plan.seconds).announce().removeprefix('ends ')}"


def describe_stages(plan: "Plan", found: "Survey", published: "Published | Base | None") -> "Sequence[str]":
    """Return what the stages begin with and how long they are, in lines."""
    from training.planning.fine_tuning import Base, describe
    from training.planning.first_stages import FITS
    from training.planning.models import PIXELS

    if isinstance(published, Base):
        return describe(published, plan.second_steps, device(), found)
    stage = "the pixels themselves" if plan.size <= PIXELS else f"{plan.first_steps:,} steps"
    if published is not None:
        stage = f"{published.reference}, which reconstructs the pictures at {published.psnr:.1f} dB"
        stage += f" ({FITS:g} suffice)" if published.fits else f"; {FITS:g} would be good"
    return [f"first stage: {stage}; second stage: {plan.second_steps:,} steps; {plan.weights / 1e6:.1f} M weights"]


def line(title: str, text: str) -> None:
    """Print a line of the description."""
    typer.echo(f"{typer.style(f'{title:7}', bold=True)}{text}")


def report_result(plan: "Plan", folder: Path, settings: "Settings", engine: "Engine") -> dict[str, Any]:
    """Print the release with its figures, copy its sheet of samples, and say what to do next. Returns it as JSON."""
    from services.registry import evaluations, releases
    from services.registry.release_cache import ReleaseCache
    from services.storage.object_store import ObjectStore

    reference = f"{plan.options.name}@{plan.options.alias}"
    with engine.connect() as connection:
        row = releases.find(connection, reference)
        recorded = evaluations.list_evaluations(connection, row.id)
    scores = recorded[-1].metrics if recorded else {}
    sheet = folder / "samples.png"
    with ReleaseCache(ObjectStore.connect(settings), settings.cache_dir, settings.cache_gb).hold(row.manifest) as held:
        sheet.write_bytes((held / "samples.png").read_bytes())
    figures = ", ".join(f"{name.replace('_', ' ')} {scores[name]:.3g}" for name in SCORES if name in scores)
    line("Made", f"{row.name}@{row.version}, which {reference} points at" + (f" ({figures})" if figures else ""))
    before = scores.get("base", {})
    if shared := [name for name in SCORES if name in scores and name in before]:
        figures = ", ".join(f"{name.replace('_', ' ')} {before[name]:.3g}" for name in shared)
        line("", f"{plan.base}, which it began with, has on these pictures: {figures}")
    if (copied := scores.get("nearer_than_any_held_out_image", 0.0)) > COPIED:
        line("", f"{100 * copied:.0f} % of the samples are nearer to a training picture than any held-out picture is: "
                 "it may have memorized them. Use more images, or less time")  # fmt: skip
    line("Sheet", str(sheet))
    given = {"class": " --class NAME", "caption": ' --caption "WORDS"', "none": ""}[plan.condition]
    line("Next", f"darkroom generate {reference}{given} --count 16")
    return {"release": f"{row.name}@{row.version}", "alias": reference, "metrics": scores, "sheet": str(sheet)}
