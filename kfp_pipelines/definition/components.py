"""The stages of the pipelines: each component is one call into the package, on the project image.

Nothing is installed at run time. KFP takes a component's source text alone, so imports stand inside.
"""

from kfp import dsl


def prepare_data(data: str, data_version: str, overrides: list[str], images: dsl.Output[dsl.Dataset]) -> None:
    """Check the images, bring them to size, and train the classifier through which evaluations see them.

    data_version: other text where there may be other images under the same name, so that KFP's cache is not asked.
    """
    from pathlib import Path

    from kfp_pipelines.stages import training as stages

    images.metadata["fingerprint"] = stages.prepare(data, overrides, Path(images.path))


def fetch_release(reference: str, kind: str, training: dsl.Output[dsl.Model]) -> None:
    """A published release; for `autoencoder` the first stage of a diffusion release, or the release itself."""
    from pathlib import Path

    from kfp_pipelines.stages import publishing

    training.metadata["release"] = publishing.fetch(reference, kind, Path(training.path) / "release")


def train_autoencoder(
    experiment: str,
    overrides: list[str],
    checkpoints: str,
    job: str,
    images: dsl.Input[dsl.Dataset],
    training: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Train the first stage; its release lies in `release/`."""
    from pathlib import Path

    from kfp_pipelines.stages import training as stages

    inputs = {"data.root": images.path}
    stages.train(experiment, overrides, inputs, Path(training.path), checkpoints, Path(report.path), job)


def encode_latents(
    experiment: str,
    overrides: list[str],
    training: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    latents: dsl.Output[dsl.Dataset],
) -> None:
    """Write the posterior moments of every image once, mirrored too where the second stage wants them."""
    from pathlib import Path

    from kfp_pipelines.stages import training as stages

    stages.encode(experiment, overrides, Path(training.path) / "release", Path(images.path), Path(latents.path))


def train_diffusion(
    experiment: str,
    overrides: list[str],
    checkpoints: str,
    job: str,
    images: dsl.Input[dsl.Dataset],
    autoencoder: dsl.Input[dsl.Model],
    latents: dsl.Input[dsl.Dataset],
    training: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Train the second stage; its release lies in `release/`."""
    from pathlib import Path

    from kfp_pipelines.stages import training as stages

    inputs = {
        "data.root": images.path,
        "data.latents": latents.path,
        "autoencoder": f"{autoencoder.path}/release",
    }
    stages.train(experiment, overrides, inputs, Path(training.path), checkpoints, Path(report.path), job)


def fine_tune_diffusion(
    experiment: str,
    overrides: list[str],
    checkpoints: str,
    job: str,
    images: dsl.Input[dsl.Dataset],
    autoencoder: dsl.Input[dsl.Model],
    latents: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    training: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Train the second stage from the weights of a release; the new one lies in `release/`."""
    from pathlib import Path

    from kfp_pipelines.stages import training as stages

    inputs = {
        "data.root": images.path,
        "data.latents": latents.path,
        "autoencoder": f"{autoencoder.path}/release",
        "initial": f"{base.path}/release",
    }
    stages.train(experiment, overrides, inputs, Path(training.path), checkpoints, Path(report.path), job)


def evaluate(
    sampling: list[str],
    training: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Score a release on the held-out images; how a diffusion model is sampled, such as images=1000, steps=30."""
    import json
    from pathlib import Path

    from kfp_pipelines.stages import training as stages

    release = Path(training.path) / "release"
    figures = stages.evaluate(release, Path(images.path), Path(evaluation.path), sampling, Path(report.path))
    for name, value in figures.items():
        metrics.log_metric(name, value)
    Path(metrics.path).write_text(json.dumps(figures))  # an artifact without a file is not found in a cache again


def gate(
    rules: list[str],
    alias: str,
    images: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Artifact],
    comparison: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
) -> str:
    """`passed` or `refused`: the figures against the rules, and beside the release that the alias points at."""
    from pathlib import Path

    from kfp_pipelines.stages import publishing

    verdict = publishing.compare(rules, alias, Path(images.path), Path(evaluation.path), Path(comparison.path))
    Path(report.path).write_text((Path(comparison.path) / "comparison.md").read_text())
    return verdict


def publish(run: str, alias: str, training: dsl.Input[dsl.Model], evaluation: dsl.Input[dsl.Artifact]) -> str:
    """Publish a release with its evaluation, point the alias at it; its name@version."""
    from pathlib import Path

    from kfp_pipelines.stages import publishing

    return publishing.publish(Path(training.path) / "release", Path(evaluation.path), alias, run)


def smoke(
    release: str,
    count: int,
    training: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
) -> None:
    """A job for the release through the queue, as a client submits it; 0 images: none."""
    from pathlib import Path

    from kfp_pipelines.stages import smoke

    smoke.run(release, Path(training.path) / "release", count, Path(images.path), Path(report.path))


def promote(release: str, autoencoder: str, alias: str, comparison: dsl.Input[dsl.Artifact]) -> None:
    """Point the alias at the release, unless it was moved since the gate compared; and at a new first stage, if any."""
    from pathlib import Path

    from kfp_pipelines.stages import publishing

    publishing.promote(release, autoencoder, alias, Path(comparison.path))


def tell_end(run: str, status: dsl.PipelineTaskFinalStatus, report: dsl.Output[dsl.Markdown]) -> None:
    """How the run ended, whether well or not; always the last stage."""
    from pathlib import Path

    from kfp_pipelines.stages import training as stages

    stages.tell_end(run, status.state, status.error_code, status.error_message, Path(report.path))


def train_autoencoder_of_sweep(
    entry: dict[str, str], checkpoints: str, images: dsl.Input[dsl.Dataset], training: dsl.Output[dsl.Model]
) -> None:
    """Train the first stage of a sweep's entry: {"experiment": NAME, "overrides": "field=value ..."}."""
    from pathlib import Path

    from kfp_pipelines.stages import sweep

    sweep.train_autoencoder(entry, Path(images.path), Path(training.path), checkpoints)


def train_diffusion_of_sweep(
    entry: dict[str, str],
    experiment: str,
    overrides: list[str],
    checkpoints: str,
    images: dsl.Input[dsl.Dataset],
    autoencoder: dsl.Input[dsl.Model],
    training: dsl.Output[dsl.Model],
) -> None:
    """Train the second stage on the first one of an entry, with the entry's "diffusion_overrides" besides."""
    from pathlib import Path

    from kfp_pipelines.stages import sweep

    first = Path(autoencoder.path) / "release"
    sweep.train_diffusion(entry, experiment, overrides, Path(images.path), first, Path(training.path), checkpoints)


def evaluate_guidances(
    sampling: list[str],
    guidances: list[float],
    training: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
) -> None:
    """Score a release under each guidance scale."""
    from pathlib import Path

    from kfp_pipelines.stages import sweep

    sweep.evaluate(Path(training.path) / "release", Path(images.path), Path(evaluation.path), sampling, guidances)


def choose(
    by: str,
    evaluations: dsl.Input[list[dsl.Artifact]],
    trainings: dsl.Input[list[dsl.Model]],
    best: dsl.Output[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """The training with the best figure of a sweep, such as frechet_distance<= (less is better)."""
    from pathlib import Path

    from kfp_pipelines.stages import sweep

    chosen = sweep.choose(
        by, [Path(one.path) for one in trainings], [Path(one.path) for one in evaluations], Path(report.path)
    )
    sweep.take(chosen, Path(best.path), Path(evaluation.path))
