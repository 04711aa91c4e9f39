"""Score a release on a set of images: `python -m training.evaluate RELEASE DATA OUTPUT`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import metrics, previews, sheet
from training.data import image_set
from training.data.conditions import Requests
from training.data.image_set import DataError, ImageSet
from training.data.rows import centred
from training.model.autoencoder import Autoencoder
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, load_autoencoder, load_diffusion
from training.model.release import Release, ReleaseError
from training.model.release import read as read_release
from training.model.sampling import Sampler
from training.model.sampling import generate as sample

PAIRS = 16  # reconstructions shown
BATCH = 40


@dataclass(frozen=True)
class Sampling:
    """How a diffusion release is sampled. Two evaluations compare only where these are equal."""

    per_class: int = 16
    solver: str = "ddim"
    steps: int = 30
    guidance: float = 2.0
    seed: int = 0


def run(release: Path, data: Path, output: Path, sampling: Sampling | None = None) -> dict[str, Any]:
    """Score the release folder on the set in `data`; write metrics.json and a sheet of images under `output`.

    Raises ReleaseError or DataError.
    """
    sampling = sampling or Sampling()
    images = image_set.read(data)
    output.mkdir(parents=True, exist_ok=True)
    about = read_release(release)
    images = centred(images, min(images.image_size, about.image_shape[1]))
    if about.kind == "autoencoder":
        autoencoder, description = load_autoencoder(release)
        check(images, description)
        scores = score_autoencoder(autoencoder, images, output)
    else:
        model, description = load_diffusion(release)
        check(images, description)
        scores = score_diffusion(model, description, images, output, sampling)
    complete = {
        "release": description.name,
        "release_digest": description.digest,
        "data": images.description.name,
        "data_fingerprint": images.description.fingerprint,
        **scores,
    }
    (output / "metrics.json").write_text(json.dumps(complete, indent=2) + "\n")
    return complete


def check(images: ImageSet, description: Release) -> None:
    """Raise DataError unless the images have the release's shape and some are held out."""
    channels, size = images.channels, images.image_size
    if (channels, size, size) != description.image_shape:
        raise DataError(f"data.root: images of {channels}x{size}x{size}; the release makes {description.image_shape}")
    if images.description.train_count == len(images.images):
        raise DataError("data.root: no image is held out; prepare the set with some to evaluate on")


@torch.inference_mode()
def score_autoencoder(autoencoder: Autoencoder, images: ImageSet, output: Path) -> dict[str, Any]:
    """PSNR (dB) and SSIM of the held-out images' reconstructions; `reconstructions.png`: images above theirs."""
    held_out = images.pixels(images.rows("held_out"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder = autoencoder.to(device)
    batches = (x.to(device) for x in torch.split(held_out, BATCH))
    reconstructed = torch.cat([autoencoder.decode(autoencoder.encode(x)).clamp(-1, 1).cpu() for x in batches])
    shown = torch.cat([held_out[:PAIRS], reconstructed[:PAIRS]])
    sheet.save(output / "reconstructions.png", shown, columns=min(PAIRS, len(held_out)))
    psnr = metrics.psnr(reconstructed, held_out)
    scores = {"psnr": float(psnr.mean()), "psnr_worst": float(psnr.min()), "images": len(held_out)}
    if images.image_size >= 11:
        scores["ssim"] = float(metrics.ssim(reconstructed, held_out).mean())
    if autoencoder.config.regularisation == "vq":
        scores |= codebook_use(autoencoder, images)
    return scores


@torch.inference_mode()
def codebook_use(autoencoder: Autoencoder, images: ImageSet) -> dict[str, float]:
    """Over all images: the share of the codebook's entries that occur, and exp(entropy) of how often each does."""
    size = autoencoder.config.codebook_size
    counts = torch.zeros(size, dtype=torch.float64)
    for start in range(0, len(images.images), BATCH):
        pixels = images.pixels(range(start, min(start + BATCH, len(images.images)))).to(autoencoder.latent_scale.device)
        found = autoencoder.quantise(autoencoder.encode(pixels) / autoencoder.latent_scale).indices
        counts += torch.bincount(found.flatten().cpu(), minlength=size)
    share = counts / counts.sum()
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    return {"codebook_used": float((counts > 0).double().mean()), "codebook_perplexity": float(entropy.exp())}


def score_diffusion(
    model: LatentDiffusion, description: Release, images: ImageSet, output: Path, sampling: Sampling
) -> dict[str, Any]:
    """Samples of what the model can be asked for; with classes, whether they show what was asked for.

    That is judged by a classifier fitted on the real training images only. `samples.png`: a row for each class; of
    other conditions what was asked for, the samples, and the held-out images that the requests are of.
    """
    types = {name: config["type"] for name, config in description.architecture["conditioners"].items()}
    by_class = set(types.values()) <= {"class"}
    classes = range(len(images.description.classes)) if types else range(1)
    if by_class:
        asked = [label for label in classes for _ in range(sampling.per_class)]
        samples = generate(model, description, [dict.fromkeys(types, label) for label in asked], sampling)
        sheet.save(output / "samples.png", samples, columns=sampling.per_class)
    else:
        what = previews.asked_of(images, requests_of(description), previews.shown_rows(images, 2 * BATCH))
        samples = generate(model, description, what.requests, sampling)
        shown = [part[:PAIRS] for part in (what.pictures, samples, what.originals) if part is not None]
        columns = len(shown[0])
        sheet.save(output / "samples.png", torch.cat(shown), columns=columns, captions=what.captions[:columns])
    scores: dict[str, Any] = {
        "sampling": asdict(sampling),
        "images": len(samples),
        "distinct_share": metrics.distinct_share(samples),
    }
    if types and by_class and len(classes) > 1:
        train, held_out = images.rows("train"), images.rows("held_out")
        judge = metrics.DigitJudge(images.pixels(train), images.labels(train))
        scores["condition_accuracy"] = metrics.condition_accuracy(judge, samples, asked)
        scores["judge_accuracy"] = judge.accuracy(images.pixels(held_out), images.labels(held_out))
    return scores


def requests_of(description: Release) -> Requests:
    """What makes requests of images as the release's training made them."""
    conditioners = description.architecture["conditioners"]
    data = description.lineage.get("experiment", {}).get("data", {})
    degradation = data.get("degradation", {"kind": "bicubic", "scale": 4})
    return Requests(
        {name: config["type"] for name, config in conditioners.items()},
        degradation["kind"],
        degradation["scale"],
        data.get("masks", "mixed"),
        min((config["objects"] for config in conditioners.values() if config["type"] == "layout"), default=None),
    )


def generate(
    model: LatentDiffusion, description: Release, requests: Sequence[dict[str, Any]], sampling: Sampling
) -> Tensor:
    """One image a request, with seeds counted up from `sampling.seed`: [R, C, H, W] in [-1, 1]."""
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    parts = []
    for start in range(0, len(requests), BATCH):
        batch = requests[start : start + BATCH]
        seeds = range(sampling.seed + start, sampling.seed + start + len(batch))
        parts.append(
            sample(
                model,
                batch,
                seeds,
                latent_shape=description.latent_shape,
                sampler=Sampler(sampling.solver, sampling.steps),
                guidance=Guidance(sampling.guidance),
            ).cpu()
        )
    return torch.cat(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. A mistake is one line on standard error and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("release", type=Path, help="release folder of an autoencoder or a diffusion model")
    parser.add_argument("data", type=Path, help="folder of an image set")
    parser.add_argument("output", type=Path, help="folder to write")
    defaults = Sampling()
    for field, value in asdict(defaults).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    parsed = parser.parse_args(arguments)
    sampling = Sampling(**{field: getattr(parsed, field) for field in asdict(defaults)})
    try:
        print(json.dumps(run(parsed.release, parsed.data, parsed.output, sampling), indent=2))
    except (ReleaseError, DataError, ValueError) as error:  # a ValueError names a field of the sampling
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
