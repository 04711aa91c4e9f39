"""Images with a hole as conditions, for inpainting."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from training.model.conditioners.conditioner import Encode, MapConditioner
from training.model.conditioners.images import png_schema, read_image, read_mask
from training.model.trajectory_table import transfer

Style = Literal["latent_diffusion", "stable_diffusion"]
STYLES = get_args(Style)


class MaskedImageConditioner(MapConditioner):
    """The latent of an image without its hole, and the hole: [encode(masked image), mask].

    This is the recipe of the released inpainting model (Rombach et al. 2022, section 4.5; its scripts/inpaint.py): the
    hole's pixels are -1, which is black. The mask is 1 in the hole and -1 elsewhere, resized to the latent by nearest
    neighbour. In the null condition the hole is the whole image.

    In the style of Stable Diffusion the mask comes first and is 0 outside of the hole, whose pixels are 0, which is
    grey. The image stays in the null condition, so that guidance concerns the text alone.

    factor: pixels per latent position of the autoencoder, in height and width. channels: of the image.
    The maps have one channel more than the latents. Raises ValueError for another style.
    """

    def __init__(self, factor: int, channels: int = 3, style: Style = "latent_diffusion") -> None:
        super().__init__()
        if style not in STYLES:
            raise ValueError(f"style: {style!r} is not allowed; permitted: {', '.join(map(repr, STYLES))}")
        self.factor, self.channels, self.style = factor, channels, style
        self.kept_in_null = style == "stable_diffusion"
        self._hole = 0.0 if self.kept_in_null else -1.0

    def config(self) -> dict[str, Any]:
        """See `Conditioner.config`. Older versions read a configuration without the style."""
        style = {} if self.style == "latent_diffusion" else {"style": self.style}
        return {"type": "masked_image", "factor": self.factor, "channels": self.channels, **style}

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one value: {"image": ..., "mask": ...}."""
        return {
            "type": "object",
            "properties": {
                "image": png_schema(f"{self.channels} channels, of the height and width of the output."),
                "mask": png_schema("Greyscale, of the image's height and width; white (128 and more) is the hole."),
            },
            "required": ["image", "mask"],
            "additionalProperties": False,
        }

    def read(self, value: Any) -> tuple[Tensor, Tensor]:
        """Return the image [C, H, W] of {"image", "mask"}, with its hole filled, and the mask [1, H, W] of 0 and 1.

        Raises ValueError naming the part that is not allowed.
        """
        if not isinstance(value, Mapping) or not {"image", "mask"} <= set(value):
            raise ValueError('is not a masked image; permitted: {"image": ..., "mask": ...}')
        try:
            image = read_image(value["image"], self.channels)
        except ValueError as error:
            raise ValueError(f"image: {error}") from None
        try:
            mask = read_mask(value["mask"])
        except ValueError as error:
            raise ValueError(f"mask: {error}") from None
        if image.shape[1:] != mask.shape[1:]:
            raise ValueError(
                f"mask: {mask.shape[1]}x{mask.shape[2]} is not allowed; "
                f"permitted: {image.shape[1]}x{image.shape[2]}, as the image"
            )
        return image.masked_fill(mask.to(image.device).bool(), self._hole), mask

    def fit(self, value: Any, size: tuple[int, int]) -> Any:
        """Return the value, which has the output's size; see `Conditioner.fit`."""
        self._check_size(self.read(value)[0], size)
        return value

    def finish(self, image: Tensor, value: Any) -> Tensor:
        """Return a generated image with the known pixels restored exactly, which the first stage only approximates."""
        known, mask = (transfer(part, image.device) for part in self.read(value))
        return torch.where(mask.bool(), image, known.to(image))

    def embed(self, values: Sequence[Any], size: tuple[int, int], encode: Encode) -> Tensor:
        """Embed R masked images, None for the null condition, as maps [R, c + 1, h, w].

        Raises ValueError as `read` does, and for images that do not fit the size.
        """
        height, width = size[0] * self.factor, size[1] * self.factor
        null = torch.full((self.channels, height, width), self._hole), torch.ones(1, height, width)
        pairs = [null if value is None else self.read(value) for value in values]
        for image, _ in pairs:
            self._check_size(image, size)
        images, masks = (
            torch.stack([transfer(part, self.device) for part in parts]) for parts in zip(*pairs, strict=True)
        )
        with torch.no_grad():  # the first stage is not trained here
            latents = encode(images)
        if self.style == "stable_diffusion":
            return torch.cat([F.interpolate(masks, size=size), latents], dim=1)
        return torch.cat([latents, F.interpolate(2 * masks - 1, size=size)], dim=1)

    def _check_size(self, image: Tensor, size: tuple[int, int]) -> None:
        height, width = size[0] * self.factor, size[1] * self.factor
        if tuple(image.shape[1:]) != (height, width):
            raise ValueError(
                f"image: {image.shape[1]}x{image.shape[2]} does not fit a latent of {size[0]}x{size[1]}; "
                f"permitted: {height}x{width}"
            )
