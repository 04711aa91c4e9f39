"""The tasks that pipelines share: they prepare, fetch, train a second stage, judge, publish and promote."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from kfp_pipelines.definition import components
from kfp_pipelines.definition.parameters import GatedParameters, Parameters, SecondStageParameters
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
    """Create the task that fetches a release as the `autoencoder`, `base` or `teacher`, and return the release."""
    kind = "diffusion" if role == "base" else role
    task = stages.task(f"fetch-{role}", components.fetch_release, cached=False, reference=reference, kind=kind)
    return task.outputs["training"]


def train_second_stage(
    stages: Stages,
    parameters: SecondStageParameters,
    images: Artifact,
    autoencoder: Artifact,
    base: Artifact | None = None,
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
        "evaluate-diffusion",
        components.evaluate,
        sampling=parameters.sampling,
        training=training,
        images=images,
        **inputs,
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
        first = None if autoencoder is None else publish(stages, "publish-autoencoder", autoencoder, [])
        candidate = publish(stages, "publish-diffusion", diffusion, parameters.request_defaults)
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


def publish(stages: Stages, stage: str, trained: Trained, request_defaults: list[str]) -> dsl.PipelineTask:
    """Create the task that publishes a release with its evaluation as a candidate."""
    return stages.task(
        stage,
        components.publish,
        cached=False,
        run=RUN,
        alias=CANDIDATE,
        request_defaults=request_defaults,
        training=trained.training,
        evaluation=trained.evaluation,
    )
