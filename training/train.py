"""Train a model: `python -m training.train experiment=digits_autoencoder [field=value ...]`."""

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import yaml
from torch import Tensor

from training import card, encode_latents, experiment, sheet
from training.data import built_in, image_set, latents
from training.data.batches import Batches
from training.data.image_set import LABEL_FIELD, DataError, ImageSet
from training.discriminator import SMALLEST_IMAGE
from training.experiment import AutoencoderExperiment, DiffusionExperiment, Diverged, Experiment, ExperimentError
from training.model import conditioners, sampling
from training.model.autoencoder import Autoencoder
from training.model.conditioners import Conditioners
from training.model.diffusion import Diffusion
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, load_autoencoder, save_autoencoder, save_diffusion
from training.model.release import ReleaseError
from training.model.unet import UNet

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

Built = TypeVar("Built")
MEASURED = 32  # images of a batch when the latent scale is measured
SHOWN = 10  # images of a sample sheet's row
SHOWN_SAMPLES = 4  # of each class


def run(name: str, overrides: Sequence[str] = (), output: Path | None = None) -> Path:
    """Train the experiment `name` into `output` and return the release folder, `output/release`.

    Raises ExperimentError, DataError, ReleaseError or Diverged: each of one line, saying what to change.
    """
    config = experiment.load(name, overrides)
    if output is not None:
        config = replace(config, output=str(output))
    return train(config)


def train(config: Experiment) -> Path:
    """Train a checked experiment; see `run`."""
    output = Path(config.output)
    images = prepared(config.data)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False))
    torch.manual_seed(config.seed)  # the initial weights
    unfinished = output / "release.unfinished"  # a finished release stays until the next one is whole
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    if isinstance(config, AutoencoderExperiment):
        train_autoencoder(config, images, output, unfinished)
    else:
        train_diffusion(config, images, output, unfinished)
    release = output / "release"
    shutil.rmtree(release, ignore_errors=True)
    return unfinished.rename(release)


def prepared(config: experiment.DataConfig) -> ImageSet:
    """The image set of `data.root`; a built-in one is written there if the folder does not exist."""
    root = Path(config.root)
    if not root.exists() and config.name in built_in.SETS:
        return built_in.prepare(config.name, root)
    return image_set.read(root)


def train_autoencoder(config: AutoencoderExperiment, images: ImageSet, output: Path, release: Path) -> None:
    """The first stage: train, measure the latent scale, write the release."""
    model = built("model", lambda: Autoencoder(config.model))
    channels, size = images.images.shape[3], images.image_size
    if config.model.image_channels != channels:
        raise ExperimentError(f"model.image_channels: {config.model.image_channels}; the images have {channels}")
    if size % config.model.factor:
        raise ExperimentError(f"model.multipliers: make latents 1/{config.model.factor} of {size} pixels, not whole")
    if config.loss.adversarial_weight > 0 and size < SMALLEST_IMAGE:
        raise ExperimentError(
            f"loss.adversarial_weight: the discriminator needs images of at least {SMALLEST_IMAGE} pixels; "
            f"these have {size}"
        )
    pixels, _ = images.split("train")
    batches = batched({"image": pixels}, config)
    from training.recipes.autoencoder import AutoencoderRecipe, measure_latent_scale

    recipe = built(
        "loss",
        lambda: AutoencoderRecipe(model, config.loss, config.optimiser, steps=config.steps, seed=config.seed),
    )
    loss = fit(recipe, batches, config, output)
    model.eval().to(recipe.device)
    measure_latent_scale(model, iter(torch.split(pixels, MEASURED)), seed=config.seed)
    model.cpu()

    shown, _ = images.split("held_out") if images.description.train_count < len(images.images) else (pixels, None)
    shown = shown[:SHOWN]
    with torch.inference_mode():
        reconstructed = model.decode(model.encode(shown)).clamp(-1, 1)
    sheet.save(release / "samples.png", torch.cat([shown, reconstructed]), columns=len(shown))
    (release / "card.md").write_text(card.autoencoder(config, images.description, loss))
    lineage = lineage_of(config, images)
    save_autoencoder(release, model, name=config.name, image_size=size, lineage=lineage)


def train_diffusion(config: DiffusionExperiment, images: ImageSet, output: Path, release: Path) -> None:
    """The second stage: encode the images unless that is done, train, write the release."""
    autoencoder, first_stage = load_autoencoder(Path(config.autoencoder))
    fingerprint = images.description.fingerprint
    if config.data.latents is None:
        encoded = encode_latents.encode(autoencoder, images, output / "latents", digest=first_stage.digest)
    else:
        encoded = latents.read(Path(config.data.latents))
    latents.check(encoded, data_fingerprint=fingerprint, autoencoder=first_stage.digest)
    check_model(config, images, encoded)
    model = LatentDiffusion(
        autoencoder.cpu(),
        built("model.unet", lambda: UNet(config.model.unet)),
        Conditioners({field: conditioners.build(asdict(c)) for field, c in config.model.conditioners.items()}),
        Diffusion(config.model.diffusion),
    )
    batches = batched({"moments": encoded.moments, "label": encoded.labels}, config)
    from training.recipes.diffusion import DiffusionRecipe

    recipe = DiffusionRecipe(
        model,
        config.optimiser,
        steps=config.steps,
        seed=config.seed,
        min_snr_gamma=config.loss.min_snr_gamma,
        timestep_sampling=config.loss.timestep_sampling,
        gradient_checkpointing=config.gradient_checkpointing,
        condition_dropout=config.loss.condition_dropout,
        ema_decay=config.ema_decay,
    )
    loss = fit(recipe, batches, config, output)
    model = recipe.released(model).cpu()

    classes = range(min(images.description.classes, SHOWN)) if len(model.conditioners) else range(SHOWN)
    requests = [{field: label for field in model.conditioners} for _ in range(SHOWN_SAMPLES) for label in classes]
    samples = sampling.generate(
        model, requests, range(len(requests)), latent_shape=first_stage.latent_shape, guidance=Guidance(2.0),
        sampler=sampling.Sampler(solver="dpm_solver_2m", steps=15),
    )  # fmt: skip
    sheet.save(release / "samples.png", samples, columns=len(classes))
    (release / "card.md").write_text(card.diffusion(config, images.description, loss))
    lineage = {**lineage_of(config, images), "autoencoder": first_stage.digest}
    save_diffusion(release, model, name=config.name, image_size=images.image_size, lineage=lineage)


def check_model(config: DiffusionExperiment, images: ImageSet, encoded: latents.Latents) -> None:
    """Raise ExperimentError unless the U-Net takes these latents and the conditioners these labels."""
    unet, (channels, height, width) = config.model.unet, encoded.description.shape
    for field in ("in_channels", "out_channels"):
        if (found := getattr(unet, field)) != channels:
            raise ExperimentError(f"model.unet.{field}: {found}; the latents have {channels} channels")
    factor = 2 ** (len(unet.multipliers) - 1)
    if height % factor or width % factor:
        raise ExperimentError(
            f"model.unet.multipliers: halve {height}x{width} latents {len(unet.multipliers) - 1} times"
        )
    for field, conditioner in config.model.conditioners.items():
        where = f"model.conditioners.{field}"
        if field != LABEL_FIELD:
            raise ExperimentError(f"{where}: an image set gives no such condition; permitted: {LABEL_FIELD}")
        if conditioner.classes != images.description.classes:
            raise ExperimentError(
                f"{where}.classes: {conditioner.classes}; the images have {images.description.classes}"
            )
        if conditioner.entry == "time_embedding":
            if conditioner.width != 4 * unet.channels:
                raise ExperimentError(
                    f"{where}.width: {conditioner.width}; permitted: {4 * unet.channels}, 4 x channels"
                )
        elif conditioner.width != unet.context_width:
            raise ExperimentError(
                f"{where}.width: {conditioner.width}; model.unet.context_width is {unet.context_width}"
            )
    if unet.context_width is not None and all(
        conditioner.entry != "cross_attention" for conditioner in config.model.conditioners.values()
    ):
        raise ExperimentError("model.unet.context_width: set, but no conditioner enters there; set it to null")


def fit(recipe: "LightningModule", batches: Batches, config: Experiment, output: Path) -> float:
    """Run `config.steps` steps; write losses.csv and loss.png. Returns the mean loss of the last steps."""
    import logging
    import warnings

    from lightning.pytorch import Trainer

    from training.progress import ProgressReport, draw

    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise ExperimentError(
            "device: cuda was asked for, and this machine has no usable GPU; permitted here: auto, cpu"
        )
    on_gpu = cuda and config.device != "cpu"
    precision = config.precision if config.precision != "auto" else "bf16" if on_gpu else "fp32"
    report = ProgressReport(config.steps, output / "losses.csv")
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # device lists and tips
    with warnings.catch_warnings():
        # what it warns of is on purpose: one device, whole batches from memory, one endless epoch
        warnings.filterwarnings("ignore", module="lightning")
        trainer = Trainer(
            accelerator="cuda" if on_gpu else "cpu",
            devices=1,
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            max_epochs=1,
            limit_train_batches=config.steps,  # max_steps would count the discriminator's steps too
            callbacks=[report],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(recipe, batches)
    draw(report.losses, output / "loss.png")
    recent = report.losses[-50:]
    return sum(recent) / len(recent)


def batched(tensors: Mapping[str, Tensor], config: Experiment) -> Batches:
    """Batches by (seed, step). Raises ExperimentError for a batch size larger than the set."""
    return built("data", lambda: Batches(tensors, batch_size=config.batch_size, seed=config.seed))


def built(field: str, build: Callable[[], Built]) -> Built:
    """What `build` returns; its ValueError or FileNotFoundError as an ExperimentError of the field."""
    try:
        return build()
    except (ValueError, FileNotFoundError) as error:
        raise ExperimentError(f"{field}: {error}") from None


def plain(config: Any) -> dict[str, Any]:
    """A configuration as YAML and JSON have it: no tuples."""
    return {key: without_tuples(value) for key, value in asdict(config).items()}


def without_tuples(value: Any) -> Any:
    """Tuples as lists, at every depth."""
    if isinstance(value, dict):
        return {key: without_tuples(inner) for key, inner in value.items()}
    return [without_tuples(inner) for inner in value] if isinstance(value, tuple | list) else value


def lineage_of(config: Experiment, images: ImageSet) -> dict[str, Any]:
    """Where a release comes from: its images, and every setting but the paths, which mean nothing elsewhere."""
    settings = plain(config)
    for path in ("output", "data", "autoencoder"):
        settings.pop(path, None)
    return {"data": asdict(images.description), "experiment": settings}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. A person's mistake is one line on standard error and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description="Train a model. Fields are documented in training/configs/.",
        epilog=f"experiments: {', '.join(experiment.names())}",
    )
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="experiment=NAME, then fields to change")
    parser.add_argument("--show", action="store_true", help="print the resolved configuration and stop")
    parsed = parser.parse_args(arguments)
    chosen = [
        override.removeprefix("experiment=") for override in parsed.overrides if override.startswith("experiment=")
    ]
    others = [override for override in parsed.overrides if not override.startswith("experiment=")]
    try:
        if len(chosen) != 1:
            raise ExperimentError(f"experiment: give one, experiment=NAME; permitted: {', '.join(experiment.names())}")
        if parsed.show:
            print(yaml.safe_dump(plain(experiment.load(chosen[0], others)), sort_keys=False), end="")
        else:
            print(run(chosen[0], others))
    except (ExperimentError, DataError, ReleaseError, Diverged) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
