"""The pipelines. The same definitions compile for a cluster and run on a laptop.

full        images -> autoencoder -> latents -> diffusion -> gate -> publish -> smoke job -> promote
diffusion   the same on a published autoencoder
fine-tune   the same from the weights of a published diffusion release
sweep       several autoencoders, a diffusion model on each, several guidance scales; publishes the best
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from kfp_pipelines.definition import components
from kfp_pipelines.definition.parameters import (
    DiffusionParameters,
    FineTuneParameters,
    FullParameters,
    GatedParameters,
    Parameters,
    SweepParameters,
    signature,
)
from kfp_pipelines.definition.placement import Stages

RUN = dsl.PIPELINE_JOB_ID_PLACEHOLDER
CANDIDATE = "candidate"
PASSED = "passed"

Artifact = Any  # an output of a KFP task


@dataclass(frozen=True)
class Trained:
    """A release that a pipeline trained, and its evaluation."""

    training: Artifact
    evaluation: Artifact


@dataclass(frozen=True)
class Variant:
    """A pipeline: its name and description in the KFP UI, its parameters, and the function that creates its tasks."""

    name: str
    description: str
    parameters: type[Parameters]
    create_tasks: Callable[[Stages, Any], None]

    def define(self, stages: Stages) -> Callable[..., Any]:
        """Return the KFP pipeline, whose tasks `stages` creates."""

        def pipeline(*placeholders: Any) -> None:
            names = signature(self.parameters).parameters
            self.create_tasks(stages, self.parameters(**dict(zip(names, placeholders, strict=True))))

        pipeline.__signature__ = signature(self.parameters)  # type: ignore[attr-defined]  # KFP reads the parameters
        defined: Callable[..., Any] = dsl.pipeline(pipeline, name=self.name, description=self.description)
        return defined


def train_both_stages(stages: Stages, parameters: FullParameters) -> None:
    """Train an autoencoder and a diffusion model in its latent space, and publish both."""
    with report_end(stages):
        images = prepare_images(stages, parameters)
        autoencoder = stages.task(
            "train-autoencoder",
            components.train_autoencoder,
            experiment=parameters.autoencoder_experiment,
            overrides=parameters.autoencoder_overrides,
            checkpoints=parameters.checkpoints,
            job=stages.profiles.job_profile("train-autoencoder"),
            images=images,
        ).outputs["training"]
        scores = stages.task(
            "evaluate-autoencoder",
            components.evaluate,
            sampling=parameters.sampling,
            training=autoencoder,
            images=images,
        ).outputs["evaluation"]
        diffusion = train_second_stage(stages, parameters, images, autoencoder)
        publish_if_passed(stages, parameters, images, diffusion, Trained(autoencoder, scores))


def train_on_autoencoder(stages: Stages, parameters: DiffusionParameters) -> None:
    """Train a diffusion model in the latent space of a published autoencoder, and publish it."""
    with report_end(stages):
        images = prepare_images(stages, parameters)
        autoencoder = fetch(stages, "autoencoder", parameters.autoencoder)
        publish_if_passed(stages, parameters, images, train_second_stage(stages, parameters, images, autoencoder))


def fine_tune(stages: Stages, parameters: FineTuneParameters) -> None:
    """Train a diffusion model from the weights of a published one, and publish it."""
    with report_end(stages):
        images = prepare_images(stages, parameters)
        base = fetch(stages, "base", parameters.base)
        autoencoder = fetch(stages, "autoencoder", parameters.base)
        publish_if_passed(stages, parameters, images, train_second_stage(stages, parameters, images, autoencoder, base))


def sweep(stages: Stages, parameters: SweepParameters) -> None:
    """Train a diffusion model on each of several autoencoders, and publish the best as a candidate.

    KFP's backend cannot run a loop within an exit handler (kubeflow/pipelines#12390), so a sweep has none.
    """
    images = prepare_images(stages, parameters)
    with dsl.ParallelFor(parameters.autoencoders, name="autoencoders") as entry:
        autoencoder = stages.task(
            "train-autoencoder",
            components.train_autoencoder_of_sweep,
            entry=entry,
            checkpoints=parameters.checkpoints,
            images=images,
        ).outputs["training"]
        training = stages.task(
            "train-diffusion",
            components.train_diffusion_of_sweep,
            entry=entry,
            experiment=parameters.diffusion_experiment,
            overrides=parameters.diffusion_overrides,
            checkpoints=parameters.checkpoints,
            images=images,
            autoencoder=autoencoder,
        ).outputs["training"]
        scores = stages.task(
            "evaluate-diffusion",
            components.evaluate_guidances,
            sampling=parameters.sampling,
            guidances=parameters.guidances,
            training=training,
            images=images,
        ).outputs["evaluation"]
    best = stages.task(
        "choose",
        components.choose,
        by=parameters.by,
        trainings=dsl.Collected(training),
        evaluations=dsl.Collected(scores),
    )
    publish(stages, "publish-diffusion", Trained(best.outputs["best"], best.outputs["evaluation"]))


@contextmanager
def report_end(stages: Stages) -> Iterator[None]:
    """Create the task that reports how the run ended, after all tasks of the block, even if one failed."""
    with dsl.ExitHandler(stages.task("tell-end", components.tell_end, cached=False, run=RUN), "train and publish"):
        yield


def prepare_images(stages: Stages, parameters: Parameters) -> Artifact:
    """Create the task that prepares the images, and return its image set."""
    return stages.task(
        "prepare-data",
        components.prepare_data,
        cached=not stages.fresh_data,
        data=parameters.data,
        data_version=parameters.data_version,
        overrides=parameters.data_overrides,
    ).outputs["images"]


def fetch(stages: Stages, role: str, reference: str) -> Artifact:
    """Create the task that fetches a release as the `autoencoder` or the `base`, and return the release."""
    kind = "diffusion" if role == "base" else role
    task = stages.task(f"fetch-{role}", components.fetch_release, cached=False, reference=reference, kind=kind)
    return task.outputs["training"]


def train_second_stage(
    stages: Stages, parameters: Parameters, images: Artifact, autoencoder: Artifact, base: Artifact | None = None
) -> Trained:
    """Create the tasks that encode latents, train a diffusion model on them and evaluate it."""
    latents = stages.task(
        "encode-latents",
        components.encode_latents,
        experiment=parameters.diffusion_experiment,
        overrides=parameters.diffusion_overrides,
        training=autoencoder,
        images=images,
    ).outputs["latents"]
    inputs = {} if base is None else {"base": base}
    training = stages.task(
        "train-diffusion",
        components.train_diffusion,
        experiment=parameters.diffusion_experiment,
        overrides=parameters.diffusion_overrides,
        checkpoints=parameters.checkpoints,
        job=stages.profiles.job_profile("train-diffusion"),
        images=images,
        autoencoder=autoencoder,
        latents=latents,
        **inputs,
    ).outputs["training"]
    evaluation = stages.task(
        "evaluate-diffusion", components.evaluate, sampling=parameters.sampling, training=training, images=images
    ).outputs["evaluation"]
    return Trained(training, evaluation)


def publish_if_passed(
    stages: Stages,
    parameters: GatedParameters,
    images: Artifact,
    diffusion: Trained,
    autoencoder: Trained | None = None,
) -> None:
    """Create the gate, and the tasks that run if it passes: publish as a candidate, run a smoke job, promote."""
    gate = stages.task(
        "gate",
        components.gate,
        cached=False,
        rules=parameters.gate,
        alias=parameters.alias,
        images=images,
        evaluation=diffusion.evaluation,
    )
    with dsl.If(gate.outputs["Output"] == PASSED, "passed"):
        first = None if autoencoder is None else publish(stages, "publish-autoencoder", autoencoder)
        candidate = publish(stages, "publish-diffusion", diffusion)
        if first is not None:
            candidate.after(first)  # the diffusion release names its autoencoder
        smoke = stages.task(
            "smoke",
            components.smoke,
            cached=False,
            release=candidate.output,
            count=parameters.smoke_images,
            training=diffusion.training,
            images=images,
        )
        stages.task(
            "promote",
            components.promote,
            cached=False,
            release=candidate.output,
            autoencoder="" if first is None else first.output,
            alias=parameters.alias,
            comparison=gate.outputs["comparison"],
        ).after(smoke)


def publish(stages: Stages, stage: str, trained: Trained) -> dsl.PipelineTask:
    """Create the task that publishes a release with its evaluation as a candidate."""
    return stages.task(
        stage,
        components.publish,
        cached=False,
        run=RUN,
        alias=CANDIDATE,
        training=trained.training,
        evaluation=trained.evaluation,
    )


VARIANTS = {
    "full": Variant(
        "train-latent-diffusion",
        "Train, evaluate and publish an autoencoder and a diffusion model in its latent space.",
        FullParameters,
        train_both_stages,
    ),
    "diffusion": Variant(
        "train-diffusion",
        "Train, evaluate and publish a diffusion model in the latent space of a published autoencoder.",
        DiffusionParameters,
        train_on_autoencoder,
    ),
    "fine-tune": Variant(
        "fine-tune-diffusion",
        "Train, evaluate and publish a diffusion model, starting from the weights of a published one.",
        FineTuneParameters,
        fine_tune,
    ),
    "sweep": Variant(
        "sweep-latent-diffusion",
        "Train a diffusion model on each of several autoencoders, and publish the best as a candidate.",
        SweepParameters,
        sweep,
    ),
}


def compile_to(path: Path, variant: str = "full", stages: Stages | None = None) -> None:
    """Write the YAML package of a pipeline for a Kubeflow cluster."""
    compiler.Compiler().compile(VARIANTS[variant].define(stages or Stages()), str(path))
