"""Evaluates a light decoder beside the own decoder of its release, on held-out images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.image_set import ImageSet
from training.evaluation.first_stage import BATCH, SMALLEST, Reconstructions
from training.evaluation.networks import Networks
from training.metrics import psnr, ssim
from training.metrics.pixels import MOST
from training.model.autoencoder import Autoencoder
from training.model.light_decoder import LatentDecoder, LightDecoder, count_operations
from training.previews import contact_sheet
from training.previews.samples import DECODERS, preview_rows


@torch.inference_mode()
def score(
    autoencoder: Autoencoder, light: LightDecoder, images: ImageSet, output: Path, networks: Networks
) -> dict[str, Any]:
    """Return the figures of both decoders, and what the light one loses and saves.

    `full` and `light`: multiply-adds an image, and the figures of `first_stage.Reconstructions`. psnr_loss: of the
    light decoder, in dB. `light_to_full`: PSNR and SSIM of its images against the own decoder's. Draws images above
    what both decoders make of them as `decoders.png`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder, light = autoencoder.to(device), light.to(device)
    side = images.image_size // autoencoder.config.factor
    decoders: dict[str, LatentDecoder] = {"full": autoencoder, "light": light}
    figures = {name: Reconstructions(images, networks) for name in decoders}
    between: dict[str, list[Tensor]] = {"psnr": [], "ssim": []}

    def decode(rows: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        held_out = images.pixels(rows)
        latents = autoencoder.encode(held_out.to(device))
        return held_out, {name: decoder.decode(latents).clamp(-1, 1).cpu() for name, decoder in decoders.items()}

    for start in range(0, len(rows := images.rows("held_out")), BATCH):
        held_out, made = decode(rows[start : start + BATCH])
        for name, images_made in made.items():
            figures[name].add(images_made, held_out)
        between["psnr"].append(psnr(made["light"], made["full"]).clamp(max=MOST))
        if images.image_size >= SMALLEST:
            between["ssim"].append(ssim(made["light"], made["full"]))
    scores: dict[str, Any] = {"latent": [side, side]}
    for name, decoder in decoders.items():
        scores[name] = {"operations": count_operations(decoder, side, side), **figures[name].scores()}
    scores["operations_ratio"] = scores["full"]["operations"] / scores["light"]["operations"]
    scores["psnr_loss"] = scores["full"]["psnr"] - scores["light"]["psnr"]
    scores["light_to_full"] = {name: float(torch.cat(values).mean()) for name, values in between.items() if values}
    held_out, made = decode(preview_rows(images))
    sheet = torch.cat([held_out, made["full"], made["light"]])
    contact_sheet.save(output / "decoders.png", sheet, columns=len(held_out), rows=DECODERS)
    return scores
