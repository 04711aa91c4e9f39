"""Tells which of their models were trained with condition dropout, so that classifier-free guidance works."""

from collections.abc import Mapping
from typing import Any

from training.model.interop.compvis.options import Options
from training.model.interop.compvis.reading import class_name

TEXT = ("BERTEmbedder", "FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder")  # the null condition is the empty text
IMAGENET = 1000  # its classes; the models of one class more (`cin256-v2`) have the null condition as the last


def can_be_guided(params: Mapping[str, Any], options: Options, *, is_text: bool) -> bool:
    """Return whether a model's null condition was trained: it is known to be, or a person says so.

    params: of the whole model. is_text: whether its condition is a text.
    """
    return options.null_trained or is_text or _dropped(params) is not None or _classes(params) == IMAGENET + 1


def null_class(params: Mapping[str, Any], classes: int, options: Options) -> int | None:
    """Return the class that is the null condition of a table of `classes`, or None if no class is known to be it."""
    dropped = _dropped(params)
    if dropped is not None and type(dropped.get("val")) is int and 0 <= dropped["val"] < classes:
        return int(dropped["val"])
    return classes - 1 if options.null_trained or classes == IMAGENET + 1 else None


def _dropped(params: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return how training dropped the condition, {"p": share, "val": null condition}; None if it did not."""
    dropping = params.get("ucg_training")
    found = dropping.get(params.get("cond_stage_key", "image")) if isinstance(dropping, Mapping) else None
    return found if isinstance(found, Mapping) and found.get("p") else None


def _classes(params: Mapping[str, Any]) -> int | None:
    config = params.get("cond_stage_config")
    if class_name(config) == "ClassEmbedder" and isinstance(config, Mapping):
        found: int = (config.get("params") or {}).get("n_classes", IMAGENET)
        return found
    unet = params.get("unet_config")
    table: int | None = unet["params"].get("num_classes") if isinstance(unet, Mapping) and "params" in unet else None
    return table
