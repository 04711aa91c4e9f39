"""Train an autoencoder or a diffusion model and write its release.

python -m training.train experiment=digits_autoencoder steps=500 optimiser.learning_rate=1e-3
python -m training.train experiment=digits_diffusion autoencoder=outputs/digits_autoencoder/release
"""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.data import DataLoader

from training import configuration
from training.configuration import AutoencoderTraining, ConfigurationError, DiffusionTraining, Training
from training.data import built_in, image_set, latents
from training.data.batches import Batches
from training.data.image_set import DataError, ImageSet, to_bytes
from training.encode_latents import encode
from training.model import conditioners
from training.model.autoencoder import Autoencoder
from training.model.diffusion import Diffusion
from training.model.latent_diffusion import LatentDiffusion, load_autoencoder, save_autoencoder, save_diffusion
from training.model.release import ReleaseError
from training.model.unet import UNet
from training.sheets import grid

SHEET_ROWS, SHEET_COLUMNS = 10, 8


def run(experiment: str, overrides: Sequence[str], output: Path) -> Path:
    """Train as an experiment says; everything goes under `output`. Returns the release folder.

    Raises ConfigurationError, DataError, ReleaseError or TrainingError with a message for a person.
    """
    config = configuration.read(experiment, [*overrides, f"output={output}"])
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.yaml").write_text(yaml.safe_dump(plain(asdict(config)), sort_keys=False))
    images = open_images(config)
    torch.manual_seed(config.seed)
    try:
        match config:
            case AutoencoderTraining():
                return train_autoencoder(config, images, output)
            case DiffusionTraining():
                return train_diffusion(config, images, output)
            case _:
                raise AssertionError("configuration.check permits the two above")
    except ValueError as error:  # the model's and the loader's own words name the field
        raise ConfigurationError(str(error)) from None


def open_images(config: Training) -> ImageSet:
    """The image set under data.root; a built-in one is written there first."""
    root = Path(config.data.root)
    return image_set.read(root) if root.exists() else built_in.prepare(config.data.name, root)


def train_autoencoder(config: AutoencoderTraining, images: ImageSet, output: Path) -> Path:
    """Train a first stage and measure its latent scale."""
    from training.recipes.autoencoder import AutoencoderRecipe, measure_latent_scale

    train, _ = images.split("train")
    model = Autoencoder(config.model)
    recipe = AutoencoderRecipe(
        model, loss=config.loss, optimiser=config.optimiser, steps=config.steps, seed=config.seed
    )
    fit(recipe, Batches({"images": train}, batch_size=config.batch_size, seed=config.seed), config, output)
    model.eval()
    scale = measure_latent_scale(model, train, batch_size=256, seed=config.seed)
    print(f"latent scale {scale:.4f}", flush=True)
    release = output / "release"
    release.mkdir(exist_ok=True)
    held_out, _ = images.split("held_out")
    shown = held_out[:SHEET_COLUMNS]
    with torch.inference_mode():
        again = model.decode(model.encode(shown))
    grid(to_bytes(torch.cat([shown, again])), SHEET_COLUMNS, scale=3).save(release / "samples.png")
    write_card(release, config, images, "First row: held-out images; second row: their reconstructions.")
    save_autoencoder(release, model, name=config.name, image_size=images.image_size, lineage=lineage(config, images))
    return release


def train_diffusion(config: DiffusionTraining, images: ImageSet, output: Path) -> Path:
    """Train a second stage on latents."""
    from training.recipes.diffusion import DiffusionRecipe

    if not Path(config.autoencoder).is_dir():
        raise ConfigurationError(f"autoencoder: {config.autoencoder} is not a release folder; train one first")
    autoencoder, first = load_autoencoder(Path(config.autoencoder))
    if config.data.latents is not None:
        encoded = latents.read(Path(config.data.latents), autoencoder_digest=first.digest)
    else:
        encoded = encode(autoencoder, first.digest, images)
    channels = autoencoder.config.latent_channels
    model = LatentDiffusion(
        autoencoder,
        UNet(replace(config.model, in_channels=channels, out_channels=channels)),
        conditioners.Conditioners({name: conditioners.build(c) for name, c in config.conditioners.items()}),
        Diffusion(config.diffusion),
    )
    recipe = DiffusionRecipe(
        model, optimiser=config.optimiser, steps=config.steps, seed=config.seed, **asdict(config.loss)
    )
    tensors = {"moments": encoded.moments, "labels": encoded.labels}
    fit(recipe, Batches(tensors, batch_size=config.batch_size, seed=config.seed), config, output)
    recipe.use_average()
    model.eval()
    release = output / "release"
    release.mkdir(exist_ok=True)
    labels = [row % images.description.classes for row in range(SHEET_ROWS) for _ in range(SHEET_COLUMNS)]
    samples = model.generate(
        [dict.fromkeys(model.conditioners, label) for label in labels],
        list(range(len(labels))),
        latent_shape=first.latent_shape,
        steps=15,
        solver="dpm_solver_2m",
        guidance_scale=2.0,
    )
    grid(to_bytes(samples), SHEET_COLUMNS, scale=2).save(release / "samples.png")
    write_card(release, config, images, "Samples: DPM-Solver++(2M), 15 steps, guidance 2; a row for each class.")
    save_diffusion(
        release,
        model,
        name=config.name,
        image_size=images.image_size,
        lineage={**lineage(config, images), "autoencoder": first.digest},
    )
    return release


def fit(recipe: Any, batches: Batches, config: Training, output: Path) -> None:
    """Run a recipe for `config.steps` steps and write its loss curve."""
    from lightning import Trainer

    from training.progress import ProgressReport

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    gpu = torch.cuda.is_available()
    bf16 = config.precision == "bf16" or (config.precision == "auto" and gpu)
    report = ProgressReport(config.steps)
    with warnings.catch_warnings():
        # The batches are slices of tensors in memory: worker processes would only copy them.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer = Trainer(
            max_epochs=1,
            limit_train_batches=config.steps,
            accelerator="gpu" if gpu else "cpu",
            devices=1,
            precision="bf16-mixed" if bf16 else "32-true",
            # The autoencoder's two optimisers clip by themselves, each its own part.
            gradient_clip_val=config.optimiser.clip if recipe.automatic_optimization else None,
            callbacks=[report],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=output,
        )
        trainer.fit(recipe, DataLoader(batches, batch_size=None))
    recipe.cpu()
    report.write(output)


def lineage(config: Training, images: ImageSet) -> dict[str, Any]:
    """Where a release comes from: its data and every setting but the paths, which mean nothing elsewhere."""
    settings = plain(asdict(config))
    for name in ("output", "data", "autoencoder"):
        settings.pop(name, None)
    return {
        "data": {"name": images.description.name, "fingerprint": images.description.fingerprint},
        "config": settings,
    }


def write_card(folder: Path, config: Training, images: ImageSet, caption: str) -> None:
    """What a person should know of a release."""
    d = images.description
    (folder / "card.md").write_text(
        f"# {config.name}\n\n"
        f"Trained for {config.steps:,} steps of {config.batch_size} on {d.train_count:,} images of `{d.name}` "
        f"({images.image_size} x {images.image_size}, fingerprint `{d.fingerprint[:12]}`), seed {config.seed}.\n\n"
        f"![samples](samples.png)\n\n{caption}\n"
    )


def plain(value: Any) -> Any:
    """A configuration as YAML and JSON have it: no tuples."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def main(arguments: Sequence[str]) -> None:
    """The command line: `experiment=NAME` and Hydra overrides."""
    named = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if "experiment" not in named:
        raise ConfigurationError(
            "experiment: missing; for example: python -m training.train experiment=digits_autoencoder"
        )
    overrides = [a for a in arguments if not a.startswith(("experiment=", "output="))]
    output = Path(named.get("output", f"outputs/{named['experiment']}"))
    print(run(named["experiment"], overrides, output))


def entry_point(function: Any) -> None:
    """Run a command; what a person can mend is told in one message with exit code 2."""
    from training.progress import TrainingError

    try:
        function(sys.argv[1:])
    except (ConfigurationError, DataError, ReleaseError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(2)  # Lightning's threads must not hold up the answer


if __name__ == "__main__":
    entry_point(main)
