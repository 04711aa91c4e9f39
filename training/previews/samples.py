"""Draws previews of a model: reconstructions, samples next to their conditions, and denoising step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from training.data.batches import row_generator
from training.data.conditions import Requests
from training.data.image_set import ImageSet
from training.data.rows import read_image, spread
from training.model import sampling
from training.model.autoencoder import Autoencoder
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion
from training.model.light_decoder import LatentDecoder
from training.model.pixels import to_unit
from training.previews import contact_sheet

COLUMNS = 10  # images per row
SAMPLE_ROWS = 4  # rows of samples, if no conditions are drawn above them; else 2
ESTIMATES = 8  # estimates per denoising row
STEPS = 15
DECODERS = ("image", "own decoder", "light decoder")


@dataclass(frozen=True)
class PreviewRequests:
    """The requests of a preview, and how they are drawn."""

    requests: Sequence[dict[str, Any]]
    conditions: Tensor | None  # [R, C, S, S] in [-1, 1]: the conditions that can be drawn
    captions: Sequence[str]
    originals: Tensor | None  # the images that the requests describe


def preview_rows(images: ImageSet) -> list[int]:
    """Return the rows of a preview: held-out images, evenly spread, or training images if none is held out."""
    return spread(images.rows("held_out") or images.rows("train"), COLUMNS)


@torch.inference_mode()
def draw_reconstructions(model: Autoencoder, images: ImageSet, path: Path) -> dict[str, NDArray[np.uint8]]:
    """Draw images above their reconstructions as PATH-reconstructions.png."""
    originals = images.pixels(preview_rows(images))
    training = model.training
    model.eval()
    decoded = model.decode(model.encode(originals.to(model.latent_scale.device))).clamp(-1, 1).cpu()
    model.train(training)
    target = path.with_name(f"{path.name}-reconstructions.png")
    return {"reconstructions": contact_sheet.save(target, torch.cat([originals, decoded]), columns=len(originals))}


@torch.inference_mode()
def draw_decoders(own: Autoencoder, light: LatentDecoder, images: ImageSet, path: Path) -> dict[str, NDArray[np.uint8]]:
    """Draw images above what the own decoder and the light one make of their latents, as PATH-decoders.png."""
    originals = images.pixels(preview_rows(images))
    latents = own.encode(originals.to(own.latent_scale.device))
    rows = [originals, *(decoder.decode(latents).clamp(-1, 1).cpu() for decoder in (own, light))]
    target = path.with_name(f"{path.name}-decoders.png")
    return {"decoders": contact_sheet.save(target, torch.cat(rows), columns=len(originals), rows=DECODERS)}


def preview_requests(images: ImageSet, requests: Requests) -> PreviewRequests:
    """Return one request per class if the class is the only condition, else the requests of held-out images."""
    if set(requests.types.values()) == {"class"}:
        names = images.description.classes
        labels = images.used_classes[:COLUMNS]
        found = [dict.fromkeys(requests.types, label) for label in labels]
        return PreviewRequests(found, None, [names[label] for label in labels], None)
    if not requests.types:
        return PreviewRequests([{}] * COLUMNS, None, [], None)
    return requests_of_rows(images, requests, preview_rows(images))


def requests_of_rows(images: ImageSet, requests: Requests, rows: Sequence[int]) -> PreviewRequests:
    """Return the requests that describe the images of `rows`."""
    names = images.description.classes
    examples = [read_image(images, row, images.records[row]) for row in rows]
    made = [requests(one, row_generator(0, 0, i)) for i, one in enumerate(examples)]
    captions = [describe_request(request, requests.types, names) for request in made]
    drawn = [draw_condition(request, requests.types, one.pixels) for request, one in zip(made, examples, strict=True)]
    blank = np.full_like(examples[0].pixels, 255)  # in the column of an image without a condition
    return PreviewRequests(
        made,
        to_unit(torch.from_numpy(np.stack([blank if one is None else one for one in drawn])))
        if any(one is not None for one in drawn)
        else None,
        captions if any(captions) else [],
        images.pixels(rows),
    )


def describe_request(request: Mapping[str, Any], types: Mapping[str, str], names: Sequence[str]) -> str:
    """Return the captions and class names of a request."""
    words = []
    for field, kind in types.items():
        value = request[field]
        if value is not None and kind in ("text", "frozen_text"):
            words.append(value)
        elif value is not None and kind == "class":
            words.append(names[value])
    return ", ".join(words)


def draw_condition(
    request: Mapping[str, Any], types: Mapping[str, str], pixels: NDArray[np.uint8]
) -> NDArray[np.uint8] | None:
    """Draw the first condition of a request that can be drawn, as an image [S, S, C]; None if there is none."""
    side, channels = pixels.shape[0], pixels.shape[2]
    for field, kind in types.items():
        value = request[field]
        if value is None:
            continue
        if kind == "semantic_map":
            return match_channels(colour_labels(value), channels)
        if kind in ("layout", "layout_map"):
            return match_channels(draw_boxes(value["boxes"], side), channels)
        if kind == "low_resolution":
            small = torch.from_numpy(np.ascontiguousarray(value)).movedim(-1, 0)[None].float()
            large = F.interpolate(small, size=(side, side), mode="nearest")
            return large[0].movedim(0, -1).to(torch.uint8).numpy()
        if kind == "masked_image":
            hole = np.asarray(value["mask"]).astype(bool)[..., None]
            return np.where(hole, np.uint8(127), value["image"])
    return None


def colour_labels(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a map of classes [H, W] in colours, [H, W, 3]."""
    return (np.asarray(colormaps["tab20"](labels % 20))[..., :3] * 255).astype(np.uint8)


def draw_boxes(boxes: Sequence[dict[str, Any]], side: int) -> NDArray[np.uint8]:
    """Draw boxes on black in the colour of their class, [S, S, 3]."""
    canvas = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(canvas)
    for one in boxes:
        colour = tuple(int(255 * value) for value in colormaps["tab20"](one["class"] % 20)[:3])
        x0, y0, x1, y1 = (value * (side - 1) for value in one["box"])
        pen.rectangle((x0, y0, x1, y1), outline=colour)
    return np.asarray(canvas)


def match_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Convert [H, W, 3] to the number of channels, 1 or 3."""
    return image if channels == 3 else image.mean(axis=2, keepdims=True).astype(np.uint8)


def draw_samples(
    model: LatentDiffusion, what: PreviewRequests, latent_shape: Sequence[int], path: Path, *, guidance: float,
    sampler: sampling.Sampler | None = None,
) -> dict[str, NDArray[np.uint8]]:  # fmt: skip
    """Draw samples between their conditions and originals as PATH-samples.png, and PATH-denoising.png."""
    columns = len(what.requests)
    rows = SAMPLE_ROWS if what.conditions is None else 2
    sampler = sampler or sampling.Sampler(solver="dpm_solver_2m", steps=STEPS)
    estimates: list[Tensor] = []
    generated = sampling.generate(
        model, list(what.requests) * rows, range(columns * rows), latent_shape=latent_shape, sampler=sampler,
        guidance=Guidance(guidance), on_step=lambda done, z: estimates.append(z[:4].cpu()),
    ).cpu()  # fmt: skip
    parts = [part for part in (what.conditions, generated, what.originals) if part is not None]
    sheet = contact_sheet.save(
        path.with_name(f"{path.name}-samples.png"), torch.cat(parts), columns=columns, captions=what.captions
    )
    spaced = [estimates[round(i * (len(estimates) - 1) / (ESTIMATES - 1))] for i in range(ESTIMATES)]
    with torch.inference_mode():
        decoded = [model.autoencoder.decode(z.to(model.device)).clamp(-1, 1).cpu() for z in spaced]
    steps = torch.stack(decoded, dim=1).flatten(0, 1)  # a row for each image
    denoising = contact_sheet.save(path.with_name(f"{path.name}-denoising.png"), steps, columns=ESTIMATES)
    return {"samples": sheet, "denoising": denoising}
