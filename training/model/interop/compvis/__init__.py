"""Reading the checkpoints of the released latent diffusion models (github.com/CompVis/latent-diffusion).

A block of their configuration, {"target": class path, "params": {...}}, and its part of the state dict give one of
our modules; `read` takes a whole file. Reading is strict: every key of theirs is used, every tensor of ours is filled.
"""

from training.model.interop.compvis.checkpoint import read
from training.model.interop.compvis.reading import CompVisError
from training.model.interop.compvis.targets import READERS, build

__all__ = ["READERS", "CompVisError", "build", "read"]
