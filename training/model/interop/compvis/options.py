"""Options of an import that the files of a checkpoint do not state."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Weights = Literal["ema", "raw"]


@dataclass(frozen=True)
class Options:
    """How to read a checkpoint.

    weights: "ema" or "raw"; None reads averaged weights if the file has them. Only the U-Net of a diffusion model is
        averaged.
    tokenizer: of a text model, in a form of `tokenizer_files`; None looks for one in the folder `beside`.
    token_ids: permit token ids as the condition of a text or layout model whose tokenizer or labels are not given.
    classes: the number of labels of a layout model.
    latent_scale: instead of what the files state.
    null_trained: whether the model was trained without its condition in a part of the steps, so that it can be guided;
        for a model of classes, with its last class as the null condition. False: only where that is known.
    """

    weights: Weights | None = None
    tokenizer: Path | None = None
    beside: Path | None = None
    token_ids: bool = False
    classes: int | None = None
    latent_scale: float | None = None
    null_trained: bool = False
