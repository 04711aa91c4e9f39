"""Options of an embedder's reader besides its parameters: a tokenizer, labels, or the null class."""

from collections.abc import Mapping
from typing import Any

from training.model.interop.compvis.null import null_class
from training.model.interop.compvis.options import Options
from training.model.interop.compvis.reading import CompVisError, class_name
from training.model.interop.tokenizer_files import find_tokenizer, read_tokenizer_files

TEXT_TOWERS = ("FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder")
LAYOUT_KEY = "coordinates_bbox"


def embedder_options(
    kind: str, config: Mapping[str, Any], field: str, model_params: Mapping[str, Any], options: Options
) -> dict[str, Any]:
    """Return the options of an embedder's reader. Raises CompVisError naming the option that is missing."""
    params = config.get("params") or {}
    if kind == "ClassEmbedder":
        classes = params.get("n_classes", 1000) if isinstance(params, Mapping) else None
        return {"null": null_class(model_params, classes, options)} if type(classes) is int else {}
    if field == LAYOUT_KEY and kind not in TEXT_TOWERS:
        if options.classes is not None:
            return {"classes": options.classes}
        if options.token_ids:
            return {}
        raise CompVisError(
            "classes: this is a layout model; give the number of its labels (--classes), so that requests have boxes "
            "and labels, or --token-ids"
        )
    if options.classes is not None:
        raise CompVisError(f"classes: only a layout model needs them; cond_stage_key is {field}")
    if kind not in (*TEXT_TOWERS, "BERTEmbedder") or (kind == "BERTEmbedder" and not params.get("use_tokenizer", True)):
        return {}
    tokenizer = options.tokenizer or (find_tokenizer(options.beside) if options.beside else None)
    if tokenizer is not None:
        try:
            return {"assets": read_tokenizer_files(tokenizer)}
        except ValueError as error:
            raise CompVisError(f"tokenizer: {error}") from None
    if options.token_ids and kind == "BERTEmbedder":
        return {}
    which = "bert-base-uncased" if kind == "BERTEmbedder" else "CLIP"
    rest = ", or --token-ids" if kind == "BERTEmbedder" else ""
    raise CompVisError(
        f"tokenizer: {class_name(config)} reads texts; give the tokenizer of {which} (--tokenizer){rest}"
    )
