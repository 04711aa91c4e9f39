"""The training pipeline. The same definition compiles for a cluster and runs on a laptop."""

from pathlib import Path

from kfp import compiler, dsl

from kfp_pipelines import components


@dsl.pipeline(
    name="train-latent-diffusion",
    description="Train and evaluate an autoencoder and a diffusion model in its latent space; publish both.",
)
def train_latent_diffusion(
    data: str = "digits",
    data_overrides: list[str] = [],  # noqa: B006  (KFP compiles the default, it is never changed)
    autoencoder_experiment: str = "digits_autoencoder",
    diffusion_experiment: str = "digits_diffusion",
    autoencoder_overrides: list[str] = [],  # noqa: B006
    diffusion_overrides: list[str] = [],  # noqa: B006
    evaluation_images: int = 1000,
    alias: str = "production",
) -> None:
    """Data to two published releases. Overrides are Hydra's, such as data.root=s3://bucket/tars/ or steps=500."""
    images = components.prepare_data(data=data, overrides=data_overrides).outputs["images"]
    autoencoder = components.train_autoencoder(
        experiment=autoencoder_experiment, overrides=autoencoder_overrides, images=images
    ).outputs["training"]
    first = components.evaluate(count=evaluation_images, training=autoencoder, images=images)
    first.set_display_name("evaluate-autoencoder")
    latents = components.encode_latents(
        experiment=diffusion_experiment, overrides=diffusion_overrides, training=autoencoder, images=images
    ).outputs["latents"]
    diffusion = components.train_diffusion(
        experiment=diffusion_experiment,
        overrides=diffusion_overrides,
        images=images,
        autoencoder=autoencoder,
        latents=latents,
    ).outputs["training"]
    second = components.evaluate(count=evaluation_images, training=diffusion, images=images)
    second.set_display_name("evaluate-diffusion")
    published = components.publish(alias=alias, training=autoencoder, evaluation=first.outputs["evaluation"])
    published.set_display_name("publish-autoencoder").after(second)
    # A diffusion release points at its autoencoder's, which must be there first.
    components.publish(alias=alias, training=diffusion, evaluation=second.outputs["evaluation"]).set_display_name(
        "publish-diffusion"
    ).after(published)


def compile_to(path: Path) -> None:
    """Write the pipeline package, YAML, for a Kubeflow cluster."""
    compiler.Compiler().compile(train_latent_diffusion, str(path))
