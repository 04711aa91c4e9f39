"""Reading the checkpoints of the released latent diffusion models (github.com/CompVis/latent-diffusion).

`build` makes a module from a block of their configuration, {"target": class path, "params": {...}}, and its part of the
state dict; `read` reads a whole checkpoint. Reading is strict: it uses every key of theirs and fills every tensor of
ours. "Their" and "theirs" in this package always refer to that repository.
"""

from training.model.interop.compvis.checkpoint import read
from training.model.interop.compvis.reading import CompVisError
from training.model.interop.compvis.targets import READERS, build

__all__ = ["READERS", "CompVisError", "build", "read"]
