"""Copying their tensors into our modules, by the names that the export gives them."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from training.model.interop.huggingface.component import Names
from training.model.interop.huggingface.reading.folders import DiffusersError

# Names of attention layers before diffusers 0.18
LEGACY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
SHOWN = 12  # names in a message


def modern_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a part of diffusers by the names of today."""
    renamed = {}
    for name, tensor in tensors.items():
        prefix, _, leaf = name.rpartition(".")
        parent, _, layer = prefix.rpartition(".")
        renamed[f"{parent}.{LEGACY[layer]}.{leaf}" if layer in LEGACY and "attentions" in parent else name] = tensor
    return renamed


@torch.no_grad()
def fill(where: str, module: nn.Module, names: Names, tensors: Mapping[str, Tensor], spare: Iterable[str] = ()) -> None:
    """Copy their tensors into a module, strictly.

    names: see `component.Names`; tensors of ours without a name keep their values. spare: names of theirs that nothing
    here reads. Raises DiffusersError listing missing, unexpected and misshapen tensors.
    """
    theirs, unused = dict(names), set(tensors) - set(spare)
    missing, misshapen = [], []
    for name, tensor in module.state_dict().items():
        prefix, _, leaf = name.rpartition(".")
        if prefix not in theirs:
            continue
        key = f"{theirs[prefix]}.{leaf}"
        unused.discard(key)
        if key not in tensors:
            missing.append(key)
            continue
        value = tensors[key]
        if value.dim() == 4 and tensor.dim() == 2 and value.shape[2:] == (1, 1):
            value = value[:, :, 0, 0]  # their projections may be 1x1 convolutions, ours are linear layers
        if value.shape != tensor.shape:
            misshapen.append(f"{key} {tuple(tensors[key].shape)}")
            continue
        tensor.copy_(value)
    problems = {"missing": sorted(set(missing)), "unexpected": sorted(unused), "of another shape": misshapen}
    if any(problems.values()):
        lists = "; ".join(f"{what}: {shorten(keys)}" for what, keys in problems.items() if keys)
        raise misfit(where, lists)


def misfit(where: str, problems: str) -> DiffusersError:
    """Return the error for tensors that a configuration does not have, or has otherwise."""
    return DiffusersError(
        f"{where}: the weights do not fit the configuration. Tensors {problems}. Give the config.json and the weights "
        "of one download"
    )


def shorten(names: list[str]) -> str:
    """Join names in one line, and count those beyond the first few."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
