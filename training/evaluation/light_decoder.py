"""Evaluates a light decoder beside the own decoder of its release, on held-out images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.image_set import ImageSet
from training.evaluation.first_stage import BATCH, SMALLEST, measure
from training.evaluation.networks import Networks
from training.metrics import mean_psnr, ssim
from training.model.autoencoder import Autoencoder
from training.model.light_decoder import LatentDecoder, LightDecoder, count_operations
from training.previews import contact_sheet
from training.previews.samples import DECODERS, preview_rows


@torch.inference_mode()
def score(
    autoencoder: Autoencoder, light: LightDecoder, images: ImageSet, output: Path, networks: Networks
) -> dict[str, Any]:
    """Return the figures of both decoders, and what the light one loses and saves.

    `full` and `light`: multiply-adds an image, and the figures of `first_stage.measure` against the images. psnr_loss:
    of the light decoder, in dB. `light_to_full`: PSNR and SSIM of its images against the own decoder's. Draws images
    above what both decoders make of them as `decoders.png`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder, light = autoencoder.to(device), light.to(device)
    side = images.image_size // autoencoder.config.factor
    held_out = images.pixels(images.rows("held_out"))
    latents = [autoencoder.encode(part.to(device)) for part in torch.split(held_out, BATCH)]
    made: dict[str, Tensor] = {}
    scores: dict[str, Any] = {"latent": [side, side]}
    decoders: dict[str, LatentDecoder] = {"full": autoencoder, "light": light}
    for name, decoder in decoders.items():
        made[name] = torch.cat([decoder.decode(part).clamp(-1, 1).cpu() for part in latents])
        operations = count_operations(decoder, side, side)
        scores[name] = {"operations": operations, **measure(made[name], held_out, images, networks)}
    scores["operations_ratio"] = scores["full"]["operations"] / scores["light"]["operations"]
    scores["psnr_loss"] = scores["full"]["psnr"] - scores["light"]["psnr"]
    between = {"psnr": mean_psnr(made["light"], made["full"])}
    if images.image_size >= SMALLEST:
        between["ssim"] = float(ssim(made["light"], made["full"]).mean())
    scores["light_to_full"] = between
    shown = [images.rows("held_out").index(row) for row in preview_rows(images)]
    sheet = torch.cat([held_out[shown], made["full"][shown], made["light"][shown]])
    contact_sheet.save(output / "decoders.png", sheet, columns=len(shown), rows=DECODERS)
    return scores
