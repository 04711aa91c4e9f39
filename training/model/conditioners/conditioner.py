"""What every conditioner can do, and what a U-Net is given."""

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
    """What R rows are conditioned on, by where it enters the U-Net; None where a model has no such entry."""

    tokens: Tensor | None = None  # [R, M, width], for cross-attention
    maps: Tensor | None = None  # [R, K, h, w], concatenated to the latent
    embedding: Tensor | None = None  # [R, E], added to the timestep embedding


class Conditioner(nn.Module):
    """Turns the values of one request field into what the U-Net takes.

    It knows the JSON Schema of its values, so that a bad request is refused before it is run, and its null value,
    which stands for "no condition" in classifier-free guidance (Ho & Salimans 2022).
    """

    anchor: Tensor

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.entry: Entry = entry
        # moves with the module, so that one without weights knows its device too
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What `build` needs to make this conditioner again, as JSON has it."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """JSON Schema of one value of a request."""

    @abstractmethod
    def read(self, value: Any) -> Any:
        """One value, not None, in the form that `embed` works on.

        Raises ValueError with the value and what is permitted; also where a schema cannot say it, so that one bad
        value can be found before its batch is run.
        """

    def finish(self, image: Tensor, value: Any) -> Tensor:
        """A generated image [C, H, W] in [-1, 1] with what the value already says of its pixels: here, nothing."""
        return image

    def assets(self) -> dict[str, bytes]:
        """Files beside the weights that `build` needs (a vocabulary): {file name: content}."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where its answers are."""
        return self.anchor.device


class TokenConditioner(Conditioner):
    """A conditioner whose answer does not depend on the size of the latent: [R, M, width].

    entry: "cross_attention", where the U-Net's context width must equal `width`, or "time_embedding", where the mean
        over the M tokens is added to the timestep embedding, so that `width` must be that of it: 4 x the U-Net's
        channels.
    """

    def __init__(self, entry: Entry) -> None:
        if entry not in ("cross_attention", "time_embedding"):
            raise ValueError(f"entry: {entry!r} is not allowed; permitted: 'cross_attention', 'time_embedding'")
        super().__init__(entry)

    @abstractmethod
    def embed(self, values: Sequence[Any]) -> Tensor:
        """R values, None for the null condition -> tokens [R, M, width]. Raises ValueError as `read` does."""


class MapConditioner(Conditioner):
    """A conditioner whose answer lies over the latent and is concatenated to it: [R, K, h, w]."""

    def __init__(self) -> None:
        super().__init__("concat")

    @abstractmethod
    def embed(self, values: Sequence[Any], size: tuple[int, int], encode: Encode) -> Tensor:
        """R values, None for the null condition -> maps [R, K, h, w] for latents of `size` (h, w).

        encode: the first stage. Raises ValueError as `read` does, and for an image that does not fit the size.
        """
