"""The pictures that tell how a model does: reconstructions, samples beside what was asked for, denoising row by row."""

from collections.abc import Sequence
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
from training.data.rows import picture
from training.model import sampling
from training.model.autoencoder import Autoencoder
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion
from training.model.pixels import to_unit
from training.previews import contact_sheet

SHOWN = 10  # images of a row
SAMPLED = 4  # rows of samples where no picture is asked for, 2 where one is
DENOISED = 8  # estimates of a denoising row
STEPS = 15


@dataclass(frozen=True)
class Asked:
    """What samples are asked for: requests, and how a person is shown them."""

    requests: Sequence[dict[str, Any]]
    pictures: Tensor | None  # [R, C, S, S] in [-1, 1]: the conditions that can be seen
    captions: Sequence[str]
    originals: Tensor | None  # the images that the requests are of


def shown_rows(images: ImageSet, count: int = SHOWN) -> Sequence[int]:
    """Which images are shown: held-out ones, evenly spread, training ones where none is held out."""
    rows = images.rows("held_out") or images.rows("train")
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


@torch.inference_mode()
def reconstructions(model: Autoencoder, images: ImageSet, path: Path) -> dict[str, NDArray[np.uint8]]:
    """Images above their reconstructions, written as PATH.png."""
    shown = images.pixels(shown_rows(images))
    training = model.training
    model.eval()
    decoded = model.decode(model.encode(shown.to(model.latent_scale.device))).clamp(-1, 1).cpu()
    model.train(training)
    target = path.with_name(f"{path.name}-reconstructions.png")
    return {"reconstructions": contact_sheet.save(target, torch.cat([shown, decoded]), columns=len(shown))}


def asked(images: ImageSet, requests: Requests) -> Asked:
    """Requests to show: one of each class where that is all a model is told, else those of held-out images."""
    if set(requests.types.values()) == {"class"}:
        names = images.description.classes
        labels = range(min(len(names), SHOWN))
        return Asked([dict.fromkeys(requests.types, label) for label in labels], None, [names[i] for i in labels], None)
    if not requests.types:
        return Asked([{}] * SHOWN, None, [], None)
    return asked_of(images, requests, shown_rows(images))


def asked_of(images: ImageSet, requests: Requests, rows: Sequence[int]) -> Asked:
    """The requests that the images of `rows` would have been asked for by."""
    names = images.description.classes
    pictures = [picture(images, row, images.records[row]) for row in rows]
    made = [requests(one, row_generator(0, 0, i)) for i, one in enumerate(pictures)]
    captions = [told(request, requests.types, names) for request in made]
    seen = [visible(request, requests.types, one.pixels, images) for request, one in zip(made, pictures, strict=True)]
    blank = np.full_like(pictures[0].pixels, 255)  # an image without a condition keeps its column
    return Asked(
        made,
        to_unit(torch.from_numpy(np.stack([blank if one is None else one for one in seen])))
        if any(one is not None for one in seen)
        else None,
        captions if any(captions) else [],
        images.pixels(rows),
    )


def told(request: dict[str, Any], types: dict[str, str] | Any, names: Sequence[str]) -> str:
    """The words of a request."""
    words = []
    for field, kind in types.items():
        value = request[field]
        if value is not None and kind in ("text", "frozen_text"):
            words.append(value)
        elif value is not None and kind == "class":
            words.append(names[value])
    return ", ".join(words)


def visible(
    request: dict[str, Any], types: dict[str, str] | Any, pixels: NDArray[np.uint8], images: ImageSet
) -> NDArray[np.uint8] | None:
    """The first condition of a request that can be seen, as an image [S, S, C]."""
    side, channels = pixels.shape[0], pixels.shape[2]
    for field, kind in types.items():
        value = request[field]
        if value is None:
            continue
        if kind == "semantic_map":
            return in_channels(coloured(value), channels)
        if kind in ("layout", "layout_map"):
            return in_channels(boxed(value["boxes"], side), channels)
        if kind == "low_resolution":
            small = torch.from_numpy(np.ascontiguousarray(value)).movedim(-1, 0)[None].float()
            large = F.interpolate(small, size=(side, side), mode="nearest")
            return large[0].movedim(0, -1).to(torch.uint8).numpy()
        if kind == "masked_image":
            hole = np.asarray(value["mask"]).astype(bool)[..., None]
            return np.where(hole, np.uint8(127), value["image"])
    return None


def coloured(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """A map of classes [H, W] in colours [H, W, 3]."""
    return (np.asarray(colormaps["tab20"](labels % 20))[..., :3] * 255).astype(np.uint8)


def boxed(boxes: Sequence[dict[str, Any]], side: int) -> NDArray[np.uint8]:
    """Boxes drawn on black, a colour for each class: [S, S, 3]."""
    canvas = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(canvas)
    for one in boxes:
        colour = tuple(int(255 * value) for value in colormaps["tab20"](one["class"] % 20)[:3])
        x0, y0, x1, y1 = (value * (side - 1) for value in one["box"])
        pen.rectangle((x0, y0, x1, y1), outline=colour)
    return np.asarray(canvas)


def in_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """[H, W, 3] in as many channels as the set's images have."""
    return image if channels == 3 else image.mean(axis=2, keepdims=True).astype(np.uint8)


def samples(
    model: LatentDiffusion, what: Asked, latent_shape: Sequence[int], path: Path, *, guidance: float
) -> dict[str, NDArray[np.uint8]]:
    """Samples as PATH-samples.png: what was asked for above them, the originals below; and PATH-denoising.png."""
    columns = len(what.requests)
    rows = SAMPLED if what.pictures is None else 2
    sampler = sampling.Sampler(solver="dpm_solver_2m", steps=STEPS)
    estimates: list[Tensor] = []
    generated = sampling.generate(
        model, list(what.requests) * rows, range(columns * rows), latent_shape=latent_shape, sampler=sampler,
        guidance=Guidance(guidance), on_step=lambda done, z: estimates.append(z[:4].cpu()),
    ).cpu()  # fmt: skip
    parts = [part for part in (what.pictures, generated, what.originals) if part is not None]
    drawn = contact_sheet.save(
        path.with_name(f"{path.name}-samples.png"), torch.cat(parts), columns=columns, captions=what.captions
    )
    chosen = [estimates[round(i * (len(estimates) - 1) / (DENOISED - 1))] for i in range(DENOISED)]
    with torch.inference_mode():
        decoded = [model.autoencoder.decode(z.to(model.device)).clamp(-1, 1).cpu() for z in chosen]
    steps = torch.stack(decoded, dim=1).flatten(0, 1)  # a row for each image
    rows_drawn = contact_sheet.save(path.with_name(f"{path.name}-denoising.png"), steps, columns=DENOISED)
    return {"samples": drawn, "denoising": rows_drawn}
