"""The interface of conditioners, and the conditions that they give to a U-Net."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Entry = Literal["cross_attention", "concat", "time_embedding"]
Encode = Callable[[Tensor], Tensor]  # images [R, C, H, W] in [-1, 1] -> scaled latents [R, c, h, w]


@dataclass(frozen=True)
class Conditions:
    """The conditions of R rows, by where they enter the U-Net; None if the model has no such entry."""

    tokens: Tensor | None = None  # [R, M, width], for cross-attention
    maps: Tensor | None = None  # [R, K, h, w], concatenated to the latent
    embedding: Tensor | None = None  # [R, E], added to the timestep embedding


class Conditioner(nn.Module):
    """Turns the values of one request field into inputs of the U-Net.

    It knows the JSON Schema of its values, so that bad requests are refused before they run, and its null value, which
    means "no condition" in classifier-free guidance (Ho & Salimans 2022).
    """

    anchor: Tensor

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.entry: Entry = entry
        # moves with the module, so that a module without weights has a device too
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the configuration from which `build` makes this conditioner, as JSON values."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one value of a request."""

    @abstractmethod
    def read(self, value: Any) -> object:
        """Convert one value, not None, to the form that `embed` uses.

        Raises ValueError naming the value and what is permitted. It also finds what a JSON Schema cannot express, so
        that a bad value can be refused before its batch runs.
        """

    def fit(self, value: Any, size: tuple[int, int]) -> Any:
        """Return a value that embeds as `value` does for latents of `size` (h, w), whose own size is bounded.

        It needs no device, so it may be called in another thread. Raises ValueError as `read` and `embed` do.
        """
        self.read(value)
        return value

    def finish(self, image: Tensor, value: Any) -> Tensor:
        """Return a generated image [C, H, W] in [-1, 1] with the pixels that the value determines; by default none."""
        return image

    def assets(self) -> dict[str, bytes]:
        """Return the files that `build` needs besides the weights, such as a vocabulary: {file name: content}."""
        return {}

    @property
    def device(self) -> torch.device:
        """The device of the embeddings."""
        return self.anchor.device


class TokenConditioner(Conditioner):
    """A conditioner that embeds values as tokens [R, M, width], whatever the size of the latent.

    entry: "cross_attention", for which `width` must equal the U-Net's context width; or "time_embedding", which adds
        the mean over the M tokens to the timestep embedding, so that `width` must be 4 x the U-Net's channels.
    Raises ValueError for another entry.
    """

    def __init__(self, entry: Entry) -> None:
        if entry not in ("cross_attention", "time_embedding"):
            raise ValueError(f"entry: {entry!r} is not allowed; permitted: 'cross_attention', 'time_embedding'")
        super().__init__(entry)

    @abstractmethod
    def embed(self, values: Sequence[Any]) -> Tensor:
        """Embed R values, None for the null condition, as tokens [R, M, width]. Raises ValueError as `read` does."""


class MapConditioner(Conditioner):
    """A conditioner that embeds values as maps [R, K, h, w], which are concatenated to the latent.

    kept_in_null: whether a guided request keeps its maps where its other conditions become null.
    """

    kept_in_null = False

    def __init__(self) -> None:
        super().__init__("concat")

    @abstractmethod
    def embed(self, values: Sequence[Any], size: tuple[int, int], encode: Encode) -> Tensor:
        """Embed R values, None for the null condition, as maps [R, K, h, w] for latents of `size` (h, w).

        encode: the first stage. Raises ValueError as `read` does, and for an image that does not fit the size.
        """
