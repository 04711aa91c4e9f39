"""Low-resolution images as conditions, for super-resolution."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from training.model.conditioners.conditioner import Encode, MapConditioner
from training.model.conditioners.images import png_schema, read_image
from training.model.trajectory_table import transfer

Method = Literal["bilinear", "bicubic"]
METHODS = ("bilinear", "bicubic")


class LowResolutionConditioner(MapConditioner):
    """The pixels of a low-resolution image, concatenated to the latent (Rombach et al. 2022, section 4.4).

    An image of the latent's size is used unchanged, as in the released `bsr_sr`. Another size is resized by `method`,
    with a low-pass filter when shrinking. The null condition is zeros, which is mid-grey.
    channels: of the image. Raises ValueError for an unknown method.
    """

    def __init__(self, channels: int = 3, method: Method = "bicubic") -> None:
        if method not in METHODS:
            raise ValueError(f"method: {method!r} is not known; permitted: {', '.join(METHODS)}")
        super().__init__()
        self.channels, self.method = channels, method

    def config(self) -> dict[str, Any]:
        """See `Conditioner.config`."""
        return {"type": "low_resolution", "channels": self.channels, "method": self.method}

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one value."""
        return png_schema(f"{self.channels} channels; best of the latent's height and width, else it is resized.")

    def read(self, value: Any) -> Tensor:
        """Convert an image (see `images`) to float32 [C, H, W] in [-1, 1]. Raises ValueError."""
        return read_image(value, self.channels)

    def fit(self, value: Any, size: tuple[int, int]) -> Tensor:
        """Return the image in the latent's size, float32 [C, h, w]; see `Conditioner.fit`."""
        return self._resize(self.read(value), size)

    def embed(self, values: Sequence[Any], size: tuple[int, int], encode: Encode) -> Tensor:
        """Embed R images, None for the null condition, as maps [R, C, h, w]. Raises ValueError as `read` does."""
        zeros = torch.zeros(self.channels, *size, device=self.device)
        return torch.stack(
            [
                zeros if value is None else self._resize(transfer(self.read(value), self.device), size)
                for value in values
            ]
        )

    def _resize(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(image.shape[1:]) == tuple(size):
            return image
        resized = F.interpolate(image[None], size=size, mode=self.method, antialias=True)[0]
        return resized.clamp(-1, 1)  # bicubic overshoots at edges
