"""Evaluates a distilled release at every number of evaluations that it permits, and compares it with its teacher."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.data.image_set import DataError, ImageSet
from training.evaluate import fit_images, run, run_against
from training.evaluation.against import comparable_rows
from training.evaluation.fidelity import LEAST
from training.evaluation.second_stage import Sampling
from training.model.distilled_solvers import DISTILLED_SOLVERS
from training.model.release import Release, ReleaseError, read, write_best

DISTANCE = "frechet_distance"
SHEETS = ("samples.png", "nearest.png")


@dataclass(frozen=True)
class StudentScores:
    """The evaluation of a distilled release."""

    best_steps: int  # with the lowest Fréchet distance
    distances: dict[int, float]  # Fréchet distances by the number of evaluations
    metrics: dict[str, Any]  # of the best number; `teacher` has those of the teacher
    comparison: dict[str, Any]  # with the teacher; see `evaluation.against`


def check(teacher: Release, images: ImageSet) -> None:
    """Raise DataError unless a student of the teacher can be measured on the images, before it is trained."""
    count = len(comparable_rows(teacher, fit_images(images, teacher)))
    if count < LEAST:
        raise DataError(f"data.root: {count} training images; permitted: at least {LEAST}, with which the samples of "
                        "the student and of its teacher are compared")  # fmt: skip


def run_student(
    student: Path,
    teacher: Path,
    data: Path,
    output: Path,
    sampling: Sampling | None = None,
    on_measured: Callable[[int, float], None] = lambda steps, distance: None,
) -> StudentScores:
    """Evaluate a student on the image set `data`, and make its best number of evaluations the default of its folder.

    sampling: of the teacher; the student has its images, guidance and seed. on_measured: called with each number of
    evaluations and its Fréchet distance. Writes to `output` what `evaluate.run` writes of the best number,
    comparison.json and comparison.png, and the evaluation of each number in {steps}-steps/. Raises as `run_against`.
    """
    distilled = read(student).distilled
    if distilled is None:
        raise ReleaseError(f"{student}: not distilled; permitted: a release that darkroom distil made")
    taught = sampling or Sampling()
    (solver,) = DISTILLED_SOLVERS
    found: dict[int, dict[str, Any]] = {}
    for steps in distilled.steps:
        told = replace(taught, solver=solver, steps=steps)
        found[steps] = run(student, data, output / f"{steps}-steps", told)
        on_measured(steps, float(found[steps][DISTANCE]))
    distances = {steps: float(scores[DISTANCE]) for steps, scores in found.items()}
    best = min(distances, key=lambda steps: distances[steps])
    write_best(student, best)
    comparison = run_against(student, teacher, data, output, replace(taught, solver=solver, steps=best), taught)
    metrics = {
        **found[best],
        "release_digest": read(student).digest,  # its weights are those that were measured
        "teacher": {
            "release": comparison["against"],
            "release_digest": comparison["against_digest"],
            **{name: figure["against"] for name, figure in comparison["figures"].items()},
        },
    }
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    for name in SHEETS:
        shutil.copyfile(output / f"{best}-steps" / name, output / name)
    return StudentScores(best, distances, metrics, comparison)
