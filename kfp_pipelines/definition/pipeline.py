"""The pipelines. The same definitions compile for a cluster and run on a laptop.

full        images -> autoencoder -> latents -> diffusion -> gate -> publish -> smoke job -> promote
diffusion   the same on a published autoencoder
fine-tune   the same from the weights of a published diffusion release
distil      a student of a published diffusion release, which needs fewer evaluations -> gate -> publish -> ...
sweep       several autoencoders, a diffusion model on each, several guidance scales; publishes the best
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from kfp_pipelines.definition import components
from kfp_pipelines.definition.package_text import quoted_for_go
from kfp_pipelines.definition.parameters import (
    DiffusionParameters,
    DistilParameters,
    FineTuneParameters,
    FullParameters,
    Parameters,
    SweepParameters,
    signature,
)
from kfp_pipelines.definition.placement import Stages
from kfp_pipelines.definition.tasks import (
    Trained,
    fetch,
    prepare_images,
    publish,
    publish_if_passed,
    report_end,
    train_second_stage,
)


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


def distil(stages: Stages, parameters: DistilParameters) -> None:
    """Distil a published diffusion release to few evaluations, compare the student with it, and publish the student."""
    with report_end(stages):
        images = prepare_images(stages, parameters)
        teacher = fetch(stages, "teacher", parameters.teacher)
        training = stages.task(
            "train-student",
            components.train_student,
            experiment=parameters.distillation_experiment,
            overrides=parameters.distillation_overrides,
            checkpoints=parameters.checkpoints,
            job=stages.profiles.job_profile("train-student"),
            images=images,
            teacher=teacher,
        ).outputs["training"]
        evaluated = stages.task(
            "evaluate-student",
            components.evaluate_student,
            sampling=parameters.sampling,
            training=training,
            teacher=teacher,
            images=images,
        )
        student = Trained(evaluated.outputs["student"], evaluated.outputs["evaluation"])
        publish_if_passed(stages, parameters, images, student)


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
    publish(
        stages,
        "publish-diffusion",
        Trained(best.outputs["best"], best.outputs["evaluation"]),
        parameters.request_defaults,
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
    "distil": Variant(
        "distil-diffusion",
        "Distil a published diffusion model to few evaluations, compare the student with it, and publish the student.",
        DistilParameters,
        distil,
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
    with quoted_for_go():
        compiler.Compiler().compile(VARIANTS[variant].define(stages or Stages()), str(path))
