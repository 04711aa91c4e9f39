"""The stages of the pipeline: each component is one call into the package, on the project image.

Nothing is installed at run time. KFP takes a component's source text alone, so imports stand inside.
"""

import os
from collections.abc import Callable
from typing import Any

from kfp import dsl

IMAGE = os.environ.get("DARKROOM_IMAGE", "darkroom:0.1.0")


def component(function: Callable[..., Any]) -> Any:
    """A KFP component that runs `function` on the project image as it is."""
    return dsl.component(function, base_image=IMAGE, install_kfp_package=False, packages_to_install=[])  # type: ignore[call-overload]


@component
def prepare_data(data: str, overrides: list[str], images: dsl.Output[dsl.Dataset]) -> None:
    """Check the images, bring them to size, and train the classifier through which evaluations see them."""
    from pathlib import Path

    from training.evaluation.networks import CLASSIFIER, own_classifier
    from training.prepare import run

    prepared = run([f"data={data}", *overrides], Path(images.path))
    images.metadata["fingerprint"] = prepared.description.fingerprint
    if prepared.rows("held_out"):
        own_classifier(prepared, [Path(images.path) / CLASSIFIER])


@component
def train_autoencoder(
    experiment: str, overrides: list[str], images: dsl.Input[dsl.Dataset], training: dsl.Output[dsl.Model]
) -> None:
    """Train the first stage; its release lies in `release/`."""
    from pathlib import Path

    from training.train import run

    run(experiment, [f"data.root='{images.path}'", *overrides], Path(training.path))  # quoted: a path may hold commas


@component
def evaluate(
    count: int,
    training: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Score a release on the held-out images; `count` images of a diffusion model."""
    from pathlib import Path

    from training.evaluate import run
    from training.evaluation.second_stage import Sampling

    release, sampling = Path(training.path) / "release", Sampling(images=count)
    scores = run(release, Path(images.path), Path(evaluation.path), sampling)
    for name, value in scores.items():
        if isinstance(value, int | float):
            metrics.log_metric(name, float(value))


@component
def encode_latents(
    experiment: str,
    overrides: list[str],
    training: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    latents: dsl.Output[dsl.Dataset],
) -> None:
    """Write the posterior moments of every image once, mirrored too where the second stage wants them."""
    from pathlib import Path

    from training import composition
    from training.encode_latents import run

    flip = composition.data([f"experiment={experiment}", f"data.root='{images.path}'", *overrides]).flip
    run(Path(training.path) / "release", Path(images.path), Path(latents.path), flip=flip)


@component
def train_diffusion(
    experiment: str,
    overrides: list[str],
    images: dsl.Input[dsl.Dataset],
    autoencoder: dsl.Input[dsl.Model],
    latents: dsl.Input[dsl.Dataset],
    training: dsl.Output[dsl.Model],
) -> None:
    """Train the second stage; its release lies in `release/`."""
    from pathlib import Path

    from training.train import run

    paths = {
        "data.root": images.path,
        "data.latents": latents.path,
        "autoencoder": f"{autoencoder.path}/release",
    }
    inputs = [f"{field}='{path}'" for field, path in paths.items()]  # quoted: a path may hold commas
    run(experiment, [*inputs, *overrides], Path(training.path))


@component
def publish(
    alias: str, training: dsl.Input[dsl.Model], evaluation: dsl.Input[dsl.Artifact], release: dsl.Output[dsl.Artifact]
) -> None:
    """Publish a release with its evaluation and point the alias at it."""
    from pathlib import Path

    from kfp_pipelines.publishing import publish_release

    release.metadata["release"] = publish_release(Path(training.path) / "release", Path(evaluation.path), alias)
    Path(release.path).write_text(release.metadata["release"] + "\n")
