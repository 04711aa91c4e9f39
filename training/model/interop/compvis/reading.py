"""Copying their tensors into our modules by name, strictly, and checking their parameters."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from training.errors import DarkroomError


class CompVisError(DarkroomError):
    """A configuration or state dict that cannot be read; the message names the parameter or the keys."""


class Source(NamedTuple):
    """The place of a layer's weight and bias in their state dict: a prefix, and for a fused qkv the third."""

    prefix: str
    third: int | None = None
    heads: int = 1


Names = Iterator[tuple[str, Source]]  # (our prefix, theirs)


STRAYS = ("loss.", "model_ema.", "transformer.to_logits.", "colorize")  # prefixes that belong to no module of ours


def fill(model: nn.Module, names: Mapping[str, Source], state_dict: Mapping[str, Tensor]) -> None:
    """Copy their tensors into ours. Raises CompVisError listing missing, unexpected and misshapen keys."""
    unused = {key for key in state_dict if not key.startswith(STRAYS)}
    missing, misshapen, quantised = [], [], []
    for name, tensor in model.state_dict().items():
        prefix, _, leaf = name.rpartition(".")
        if prefix not in names:
            continue  # latent_scale: theirs is outside the module
        source = names[prefix]
        key = f"{source.prefix}.{leaf}"
        unused.discard(key)
        if key not in state_dict:
            missing.append(key)
            continue
        value = state_dict[key]
        if source.third is not None:  # rows of a fused qkv are ordered head, then q k v, then channel
            if len(value) % (3 * source.heads):
                misshapen.append(f"{key} {tuple(value.shape)}")
                continue
            value = value.reshape(source.heads, 3, -1, *value.shape[1:])[:, source.third].flatten(0, 1)
        if value.dim() > tensor.dim() and value.shape[tensor.dim() :].numel() == 1:
            value = value.flatten(1)  # their projections are 1x1 convolutions, ours are linear layers
        if value.shape != tensor.shape:
            misshapen.append(f"{key} {tuple(state_dict[key].shape)}")
            continue
        if tensor.is_floating_point() and not value.is_floating_point():
            quantised.append(f"{key} {value.dtype}")
            continue
        tensor.copy_(value)
    problems = {"missing": sorted(set(missing)), "unexpected": sorted(unused), "of another shape": misshapen,
                "that are no floating-point numbers": quantised}  # fmt: skip
    if any(problems.values()):
        lists = "; ".join(f"{what}: {join_keys(keys)}" for what, keys in problems.items() if keys)
        raise misfit(lists)


def misfit(problems: str) -> CompVisError:
    """Return the error for keys that a configuration does not have, or has otherwise."""
    return CompVisError(
        f"The state dict does not fit the configuration. Keys {problems}. Give the configuration that the model was "
        "trained with, or the file that belongs to this one"
    )


def join_keys(keys: Sequence[str], most: int = 12) -> str:
    """Join keys in one line, and count those beyond the first `most`."""
    rest = len(keys) - most
    return ", ".join(keys[:most]) + (f" and {rest} more" if rest > 0 else "")


def check_parameters(params: Mapping[str, Any], fields: Collection[str], fixed: Mapping[str, Any]) -> None:
    """Raise ValueError for a parameter that is neither among `fields` nor has its value in `fixed`."""
    if not isinstance(params, Mapping):
        raise ValueError(f"{params!r} are not parameters")
    for name, value in params.items():
        if name in fixed:
            if value != fixed[name]:
                raise ValueError(f"{name}: {value!r} cannot be read; permitted: {fixed[name]!r}")
        elif name not in fields:
            raise ValueError(f"{name}: is not known; permitted: {', '.join(sorted({*fields, *fixed}))}")


def check_counts(params: Mapping[str, Any], *names: str) -> None:
    """Raise ValueError unless each parameter is a positive integer or a list of them, KeyError if one is missing."""
    for name in names:
        value = params[name]
        several = value if isinstance(value, list | tuple) else [value]
        if not several or not all(type(each) is int and each > 0 for each in several):
            raise ValueError(f"{name}: {value!r} cannot be read; permitted: positive integers")


def read_number(params: Mapping[str, Any], name: str, default: float) -> float:
    """Return a finite numeric parameter, also from a string, as YAML reads 1e-4. Raises ValueError."""
    value = params.get(name, default)
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{name}: {value!r} cannot be read; permitted: a number")
    return found


def select_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose keys have a prefix, without the prefix."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def class_name(block: Any) -> str:
    """Return the class name of a {"target", "params"} block."""
    target = block.get("target") if isinstance(block, Mapping) else block
    return str(target).rpartition(".")[2]
