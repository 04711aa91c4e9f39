"""The latent scale of an imported model, and its source."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor

from training.model.interop.compvis.reading import CompVisError, read_number

Origin = Literal["given", "file", "configuration", "not measured"]


class Scale(NamedTuple):
    """A latent scale and who stated it."""

    value: float
    origin: Origin


def latent_scale(params: Mapping[str, Any], state: Mapping[str, Tensor], given: float | None) -> Scale:
    """Return the latent scale of a diffusion model: given, measured in its training, or as configured.

    Their code measures it with `scale_by_std`, and then has it in the file; else it is `scale_factor`, by default 1.
    Raises CompVisError if it was measured and is not in the file, and ValueError for a number that cannot be used.
    """
    if given is not None:
        return Scale(given, "given")
    if "scale_factor" in state:
        return Scale(read_number({"scale_factor": float(state["scale_factor"])}, "scale_factor", 1.0), "file")
    if params.get("scale_by_std") and "scale_factor" not in params:
        raise CompVisError(
            "model.params: scale_by_std: True, but the file has no scale_factor; give it (--latent-scale): 1 / the "
            "standard deviation of the latents of the training images"
        )
    return Scale(read_number(params, "scale_factor", 1.0), "configuration")
