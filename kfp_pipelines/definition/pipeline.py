"""The pipelines. The same definitions compile for a cluster and run on a laptop.

    full        data -> autoencoder -> latents -> diffusion -> gate -> publish -> smoke job -> promote
    diffusion   the same on an autoencoder that is published already
    fine_tune   the same from the weights of a diffusion release
    sweep       several autoencoders, a diffusion model on each, several guidance scales; the best is published

Every variant is a function of where its stages run, and returns the pipeline.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from kfp_pipelines.definition import components
from kfp_pipelines.profiles import Profiles

RUN = dsl.PIPELINE_JOB_ID_PLACEHOLDER
CANDIDATE = "candidate"
PASSED = "passed"
STAGES = ("prepare-data", "fetch-autoencoder", "fetch-base", "train-autoencoder", "evaluate-autoencoder",
          "encode-latents", "train-diffusion", "evaluate-diffusion", "gate", "publish-autoencoder",
          "publish-diffusion", "smoke", "promote", "tell-end", "choose")  # fmt: skip
GATE = ["frechet_distance <= 1.05 * production"]
SAMPLING = ["images=1000"]

Pipeline = Any


class Stages:
    """Places tasks: each by its stage's profile, and those that ask about the present never from KFP's cache."""

    def __init__(self, profiles: Profiles | None = None, *, fresh_data: bool = False) -> None:
        """fresh_data: images are looked at in every run, as a schedule's must be."""
        self.profiles, self.fresh_data = profiles or Profiles(), fresh_data

    def __call__(self, stage: str, task: Any, *, cached: bool = True) -> Any:
        """The task, with everything that its stage asks for."""
        if not cached:
            task.set_caching_options(False)
        return self.profiles.apply(task, stage)

    def images(self, data: Any, data_version: Any, overrides: Any) -> Any:
        """The prepared images."""
        task = components.prepare_data(data=data, data_version=data_version, overrides=overrides)
        return self("prepare-data", task, cached=not self.fresh_data).outputs["images"]

    def gated(
        self, images: Any, training: Any, evaluation: Any, rules: Any, alias: Any, smoke_images: Any,
        autoencoder: Any = None, autoencoder_evaluation: Any = None,
    ) -> None:  # fmt: skip
        """Gate, and if it passes: publish as candidate, smoke job, promote."""
        gate = self(
            "gate", components.gate(rules=rules, alias=alias, images=images, evaluation=evaluation), cached=False
        )
        with dsl.If(gate.outputs["Output"] == PASSED, "passed"):
            first = ""
            before = []
            if autoencoder is not None:
                published = components.publish(
                    run=RUN, alias=CANDIDATE, training=autoencoder, evaluation=autoencoder_evaluation
                )
                before = [self("publish-autoencoder", published, cached=False)]
                first = published.output
            candidate = components.publish(run=RUN, alias=CANDIDATE, training=training, evaluation=evaluation)
            self("publish-diffusion", candidate, cached=False).after(*before)  # it points at its autoencoder
            tried = components.smoke(release=candidate.output, count=smoke_images, training=training, images=images)
            self("smoke", tried, cached=False)
            moved = components.promote(
                release=candidate.output, autoencoder=first, alias=alias, comparison=gate.outputs["comparison"]
            )
            self("promote", moved, cached=False).after(tried)


def full(stage: Stages) -> Pipeline:
    """Images to two published releases."""

    def pipeline(
        data: str = "digits",
        data_version: str = "",
        data_overrides: list[str] = [],  # noqa: B006  (KFP compiles the default, it is never changed)
        autoencoder_experiment: str = "digits_autoencoder",
        autoencoder_overrides: list[str] = [],  # noqa: B006
        diffusion_experiment: str = "digits_diffusion",
        diffusion_overrides: list[str] = [],  # noqa: B006
        checkpoints: str = "",
        sampling: list[str] = SAMPLING,
        gate: list[str] = GATE,
        alias: str = "production",
        smoke_images: int = 4,
    ) -> None:
        end = stage("tell-end", components.tell_end(run=RUN), cached=False)
        with dsl.ExitHandler(end, "train and publish"):
            images = stage.images(data, data_version, data_overrides)
            first = stage(
                "train-autoencoder",
                components.train_autoencoder(
                    experiment=autoencoder_experiment, overrides=autoencoder_overrides, checkpoints=checkpoints,
                    job=stage.profiles.job("train-autoencoder"), images=images,
                ),
            ).outputs["training"]  # fmt: skip
            first_scores = stage(
                "evaluate-autoencoder", components.evaluate(sampling=sampling, training=first, images=images)
            ).outputs["evaluation"]
            second, scores = diffused(
                stage, diffusion_experiment, diffusion_overrides, checkpoints, sampling, images, first
            )
            stage.gated(images, second, scores, gate, alias, smoke_images, first, first_scores)

    return dsl.pipeline(
        pipeline,
        name="train-latent-diffusion",
        description="Train, evaluate and publish an autoencoder and a diffusion model in its latent space.",
    )


def diffusion(stage: Stages) -> Pipeline:
    """Images and a published autoencoder to a published diffusion release."""

    def pipeline(
        autoencoder: str,
        data: str = "digits",
        data_version: str = "",
        data_overrides: list[str] = [],  # noqa: B006
        diffusion_experiment: str = "digits_diffusion",
        diffusion_overrides: list[str] = [],  # noqa: B006
        checkpoints: str = "",
        sampling: list[str] = SAMPLING,
        gate: list[str] = GATE,
        alias: str = "production",
        smoke_images: int = 4,
    ) -> None:
        end = stage("tell-end", components.tell_end(run=RUN), cached=False)
        with dsl.ExitHandler(end, "train and publish"):
            images = stage.images(data, data_version, data_overrides)
            first = stage(
                "fetch-autoencoder", components.fetch_release(reference=autoencoder, kind="autoencoder"), cached=False
            ).outputs["training"]
            second, scores = diffused(
                stage, diffusion_experiment, diffusion_overrides, checkpoints, sampling, images, first
            )
            stage.gated(images, second, scores, gate, alias, smoke_images)

    return dsl.pipeline(
        pipeline,
        name="train-diffusion",
        description="Train, evaluate and publish a diffusion model on a published autoencoder.",
    )


def fine_tune(stage: Stages) -> Pipeline:
    """Images and a published diffusion release to another one that began with its weights."""

    def pipeline(
        base: str,
        data: str = "digits",
        data_version: str = "",
        data_overrides: list[str] = [],  # noqa: B006
        diffusion_experiment: str = "digits_diffusion",
        diffusion_overrides: list[str] = [],  # noqa: B006
        checkpoints: str = "",
        sampling: list[str] = SAMPLING,
        gate: list[str] = GATE,
        alias: str = "production",
        smoke_images: int = 4,
    ) -> None:
        end = stage("tell-end", components.tell_end(run=RUN), cached=False)
        with dsl.ExitHandler(end, "train and publish"):
            images = stage.images(data, data_version, data_overrides)
            begun = stage(
                "fetch-base", components.fetch_release(reference=base, kind="diffusion"), cached=False
            ).outputs["training"]
            first = stage(
                "fetch-autoencoder", components.fetch_release(reference=base, kind="autoencoder"), cached=False
            ).outputs["training"]
            second, scores = diffused(
                stage, diffusion_experiment, diffusion_overrides, checkpoints, sampling, images, first, begun
            )
            stage.gated(images, second, scores, gate, alias, smoke_images)

    return dsl.pipeline(
        pipeline, name="fine-tune-diffusion", description="Train a published diffusion model further, on other images."
    )


def sweep(stage: Stages) -> Pipeline:
    """Several autoencoders, a diffusion model on each, several guidance scales: the best one as candidate.

    KFP's backend runs no loop within an exit handler (kubeflow/pipelines#12390), so a sweep has none.
    """

    def pipeline(
        autoencoders: list[dict[str, str]],
        data: str = "digits",
        data_version: str = "",
        data_overrides: list[str] = [],  # noqa: B006
        diffusion_experiment: str = "digits_diffusion",
        diffusion_overrides: list[str] = [],  # noqa: B006
        checkpoints: str = "",
        sampling: list[str] = SAMPLING,
        guidances: list[float] = [1.0, 2.0, 4.0],  # noqa: B006
        by: str = "least frechet_distance",
    ) -> None:
        images = stage.images(data, data_version, data_overrides)
        with dsl.ParallelFor(autoencoders, name="autoencoders") as one:
            first = stage(
                "train-autoencoder",
                components.train_autoencoder_of_sweep(entry=one, checkpoints=checkpoints, images=images),
            ).outputs["training"]
            second = stage(
                "train-diffusion",
                components.train_diffusion_of_sweep(
                    entry=one, experiment=diffusion_experiment, overrides=diffusion_overrides,
                    checkpoints=checkpoints, images=images, autoencoder=first,
                ),
            ).outputs["training"]  # fmt: skip
            scores = stage(
                "evaluate-diffusion",
                components.evaluate_guidances(sampling=sampling, guidances=guidances, training=second, images=images),
            ).outputs["evaluation"]
        best = stage(
            "choose",
            components.choose(by=by, trainings=dsl.Collected(second), evaluations=dsl.Collected(scores)),
        )
        published = components.publish(
            run=RUN, alias=CANDIDATE, training=best.outputs["best"], evaluation=best.outputs["evaluation"]
        )
        stage("publish-diffusion", published, cached=False)

    return dsl.pipeline(
        pipeline,
        name="sweep-latent-diffusion",
        description="Choose the first stage and the guidance by what the second reaches.",
    )


def diffused(
    stage: Stages, experiment: Any, overrides: Any, checkpoints: Any, sampling: Any, images: Any, autoencoder: Any,
    base: Any = None,
) -> tuple[Any, Any]:  # fmt: skip
    """The second stage on a first one: its training and its evaluation."""
    latents = stage(
        "encode-latents",
        components.encode_latents(experiment=experiment, overrides=overrides, training=autoencoder, images=images),
    ).outputs["latents"]
    given = {
        "experiment": experiment, "overrides": overrides, "checkpoints": checkpoints, "images": images,
        "job": stage.profiles.job("train-diffusion"),
        "autoencoder": autoencoder, "latents": latents,
    }  # fmt: skip
    task = components.train_diffusion(**given) if base is None else components.fine_tune_diffusion(**given, base=base)
    training = stage("train-diffusion", task).outputs["training"]
    evaluated = components.evaluate(sampling=sampling, training=training, images=images)
    return training, stage("evaluate-diffusion", evaluated).outputs["evaluation"]


VARIANTS: dict[str, Callable[[Stages], Pipeline]] = {
    "full": full,
    "diffusion": diffusion,
    "fine-tune": fine_tune,
    "sweep": sweep,
}


def compile_to(path: Path, variant: str = "full", stages: Stages | None = None) -> None:
    """Write the pipeline package, YAML, for a Kubeflow cluster."""
    compiler.Compiler().compile(VARIANTS[variant](stages or Stages()), str(path))
