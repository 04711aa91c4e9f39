"""Score a release on held-out images.

python -m training.evaluate RELEASE IMAGE_SET OUTPUT
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import metrics
from training.data import image_set
from training.data.image_set import ImageSet, to_bytes
from training.model import release as release_format
from training.model.latent_diffusion import load_autoencoder, load_diffusion
from training.sheets import grid

PER_CLASS, STEPS, GUIDANCE = 16, 30, 2.0
PAIRS = 16
BATCH = 160


def run(release: Path, data: Path, output: Path) -> dict[str, Any]:
    """Score a release of either kind; metrics.json and a sheet go under `output`. Returns the metrics."""
    images = image_set.read(data)
    output.mkdir(parents=True, exist_ok=True)
    score = score_autoencoder if release_format.read(release).kind == "autoencoder" else score_diffusion
    scores = {**score(release, images, output), "data_fingerprint": images.description.fingerprint}
    (output / "metrics.json").write_text(json.dumps(scores, indent=2) + "\n")
    for name, value in scores.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}", flush=True)
    return scores


@torch.inference_mode()
def score_autoencoder(folder: Path, images: ImageSet, output: Path) -> dict[str, Any]:
    """PSNR in dB and SSIM of held-out reconstructions, and pairs to look at."""
    model, _ = load_autoencoder(folder)
    held_out, _ = images.split("held_out")
    again = torch.cat([model.decode(model.encode(batch)).clamp(-1, 1) for batch in held_out.split(BATCH)])
    pairs = torch.cat([held_out[:PAIRS], again[:PAIRS]])
    grid(to_bytes(pairs), PAIRS, scale=2).save(output / "reconstructions.png")
    return {
        "psnr_db": float(metrics.psnr(held_out, again).mean()),
        "ssim": float(metrics.ssim(held_out, again).mean()),
        "held_out_images": len(held_out),
    }


def score_diffusion(folder: Path, images: ImageSet, output: Path) -> dict[str, Any]:
    """Share of samples that a judge, fitted on real images only, recognises as the class asked for."""
    model, description = load_diffusion(folder)
    labels = torch.arange(images.description.classes).repeat_interleave(PER_CLASS)
    requests = [dict.fromkeys(model.conditioners, int(label)) for label in labels]
    parts: list[Tensor] = []
    for start in range(0, len(requests), BATCH):
        part = requests[start : start + BATCH]
        seeds = list(range(start, start + len(part)))
        parts.append(
            model.generate(
                part, seeds, latent_shape=description.latent_shape, steps=STEPS, guidance_scale=GUIDANCE
            ).clone()
        )
    samples = torch.cat(parts)
    grid(to_bytes(samples), PER_CLASS, scale=2).save(output / "samples.png")
    judge = metrics.ClassJudge(*images.split("train"))
    return {
        "class_accuracy": judge.accuracy(samples, labels),
        "judge_accuracy_on_held_out_images": judge.accuracy(*images.split("held_out")),
        "distinct_share": metrics.distinct_share(samples),
        "samples": len(samples),
        "sampling": {"solver": "ddim", "steps": STEPS, "guidance_scale": GUIDANCE},
    }


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    from training.configuration import ConfigurationError

    if len(arguments) != 3:
        raise ConfigurationError("usage: python -m training.evaluate RELEASE IMAGE_SET OUTPUT")
    release, data, output = map(Path, arguments)
    run(release, data, output)


if __name__ == "__main__":
    from training.train import entry_point

    entry_point(main)
