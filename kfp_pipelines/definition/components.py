"""The stages of the pipelines as KFP components: each is one call into `kfp_pipelines.stages.entry`.

KFP takes the source text of a function and runs it on its own, so each imports what it uses. The KFP UI shows the
docstrings. Nothing is installed at run time.
"""

from kfp import dsl


def prepare_data(data: str, data_version: str, overrides: list[str], images: dsl.Output[dsl.Dataset]) -> None:
    """Check and resize the images, and train the classifier for evaluations.

    data_version: changes with the images, so that KFP's cache is not used for other images of the same name.
    """
    from kfp_pipelines.stages import entry

    images.metadata["fingerprint"] = entry.prepare(data, overrides, images.path)


def fetch_release(reference: str, kind: str, training: dsl.Output[dsl.Model]) -> None:
    """Fetch a published release of a kind: autoencoder (also that of a diffusion release), diffusion or teacher."""
    from kfp_pipelines.stages import entry

    training.metadata["release"] = entry.fetch_release(reference, kind, training.path)


def train_autoencoder(
    experiment: str,
    overrides: list[str],
    checkpoints: str,
    job: str,
    images: dsl.Input[dsl.Dataset],
    training: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Train an autoencoder. The release is stored in `release/`."""
    from kfp_pipelines.stages import entry

    entry.train(experiment, overrides, {"data.root": images.path}, training.path, checkpoints, report.path, job)


def encode_latents(
    experiment: str,
    overrides: list[str],
    training: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    latents: dsl.Output[dsl.Dataset],
) -> None:
    """Encode the latent distribution of each training image, and of its mirror image if training flips images."""
    from kfp_pipelines.stages import entry

    entry.encode(experiment, overrides, training.path, images.path, latents.path)


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
    base: dsl.Input[dsl.Model] = None,
) -> None:
    """Train a diffusion model, from the weights of `base` if given. The release is stored in `release/`."""
    from kfp_pipelines.stages import entry

    inputs = {"data.root": images.path, "data.latents": latents.path, "autoencoder": f"{autoencoder.path}/release"}
    if base is not None:
        inputs["initial"] = f"{base.path}/release"
    entry.train(experiment, overrides, inputs, training.path, checkpoints, report.path, job)


def evaluate(
    sampling: list[str],
    training: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    base: dsl.Input[dsl.Model] = None,
) -> None:
    """Evaluate a release on the held-out images, beside the one that it began with if `base` is given.

    sampling: how to sample, such as images=1000 and steps=30.
    """
    import json
    from pathlib import Path

    from kfp_pipelines.stages import entry

    before = "" if base is None else base.path
    scores = entry.evaluate(training.path, images.path, evaluation.path, sampling, report.path, before)
    for name, value in scores.items():
        metrics.log_metric(name, value)
    Path(metrics.path).write_text(json.dumps(scores))  # the local cache finds only artifacts that are files


def train_student(
    experiment: str,
    overrides: list[str],
    checkpoints: str,
    job: str,
    images: dsl.Input[dsl.Dataset],
    teacher: dsl.Input[dsl.Model],
    training: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Distil a diffusion model to few evaluations. The release is stored in `release/`."""
    from kfp_pipelines.stages import entry

    inputs = {"data.root": images.path, "teacher": f"{teacher.path}/release"}
    entry.train(experiment, overrides, inputs, training.path, checkpoints, report.path, job)


def evaluate_student(
    sampling: list[str],
    training: dsl.Input[dsl.Model],
    teacher: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    student: dsl.Output[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Evaluate a student with each number of evaluations, and compare it with its teacher on the same requests.

    sampling: of the teacher. The output `student` is the training with its best number of evaluations as the default.
    """
    import json
    from pathlib import Path

    from kfp_pipelines.stages import entry

    scores = entry.evaluate_student(
        training.path, teacher.path, images.path, student.path, evaluation.path, sampling, report.path
    )
    for name, value in scores.items():
        metrics.log_metric(name, value)
    Path(metrics.path).write_text(json.dumps(scores))  # the local cache finds only artifacts that are files


def gate(
    rules: list[str],
    alias: str,
    images: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Artifact],
    comparison: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
) -> str:
    """Judge the metrics by the rules, compared with the release that the alias points at: `passed` or `refused`."""
    from kfp_pipelines.stages import entry

    return entry.compare(rules, alias, images.path, evaluation.path, comparison.path, report.path)


def publish(
    run: str,
    alias: str,
    request_defaults: list[str],
    training: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
) -> str:
    """Publish a release with its evaluation, and point the alias at it. Returns name@version.

    request_defaults: of requests to it, such as steps=30 and solver=ddim.
    """
    from kfp_pipelines.stages import entry

    return entry.publish(training.path, evaluation.path, alias, run, request_defaults)


def smoke(
    release: str,
    count: int,
    training: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Sample `count` images of the release through the queue, as a client would, and check them. 0: no job."""
    from kfp_pipelines.stages import entry

    entry.run_smoke_job(release, training.path, count, images.path, report.path)


def promote(release: str, autoencoder: str, alias: str, comparison: dsl.Input[dsl.Artifact]) -> None:
    """Point the alias at the release and at its new autoencoder, unless the alias moved since the comparison."""
    from kfp_pipelines.stages import entry

    entry.promote(release, autoencoder, alias, comparison.path)


def tell_end(run: str, status: dsl.PipelineTaskFinalStatus, report: dsl.Output[dsl.Markdown]) -> None:
    """Report how the run ended. This stage runs last, even if another failed."""
    from kfp_pipelines.stages import entry

    entry.report_end(run, status.state, status.error_code, status.error_message, report.path)


def train_autoencoder_of_sweep(
    entry: dict[str, str], checkpoints: str, images: dsl.Input[dsl.Dataset], training: dsl.Output[dsl.Model]
) -> None:
    """Train the autoencoder of an entry: {"experiment": NAME, "overrides": "field=value ..."}."""
    from kfp_pipelines.stages.entry import train_sweep_autoencoder

    train_sweep_autoencoder(entry, images.path, training.path, checkpoints)


def train_diffusion_of_sweep(
    entry: dict[str, str],
    experiment: str,
    overrides: list[str],
    checkpoints: str,
    images: dsl.Input[dsl.Dataset],
    autoencoder: dsl.Input[dsl.Model],
    training: dsl.Output[dsl.Model],
) -> None:
    """Train a diffusion model on the autoencoder of an entry, with the "diffusion_overrides" of the entry as well."""
    from kfp_pipelines.stages.entry import train_sweep_diffusion

    train_sweep_diffusion(entry, experiment, overrides, images.path, autoencoder.path, training.path, checkpoints)


def evaluate_guidances(
    sampling: list[str],
    guidances: list[float],
    training: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
) -> None:
    """Evaluate a release under each guidance scale."""
    from kfp_pipelines.stages import entry

    entry.evaluate_guidances(training.path, images.path, evaluation.path, sampling, guidances)


def choose(
    by: str,
    evaluations: dsl.Input[list[dsl.Artifact]],
    trainings: dsl.Input[list[dsl.Model]],
    best: dsl.Output[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Choose the training of a sweep with the best metric, such as `least frechet_distance`."""
    from kfp_pipelines.stages import entry

    entry.choose_best(
        by, [one.path for one in trainings], [one.path for one in evaluations], best.path, evaluation.path, report.path
    )
