"""Reading text encoders with their tokenizers: CLIPTextModel and LDMBertModel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from training.errors import first_line
from training.model.conditioners.frozen_text import FrozenTextConditioner, import_transformers
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.text_tokenizer import TOKENIZER_FILE
from training.model.interop.huggingface.reading.folders import DiffusersError, read_json, read_weights, refused
from training.model.interop.huggingface.reading.tensors import fill, misfit, shorten
from training.model.interop.huggingface.token_transformer import token_transformer_names

BERT = {  # the defaults of LDMBertConfig
    "vocab_size": 30522, "max_position_embeddings": 77, "encoder_layers": 32, "encoder_ffn_dim": 5120,
    "encoder_attention_heads": 8, "head_dim": 64, "activation_function": "gelu", "d_model": 1280,
}  # fmt: skip
SPARE = ("text_model.embeddings.position_ids",)  # a constant, in files of before 2023


def read_text(
    encoder: Path, tokenizer: Path, variant: str | None = None, projection: tuple[Tensor, Tensor] | None = None
) -> FrozenTextConditioner | TextConditioner:
    """Make the conditioner of a text encoder's folder and its tokenizer's. Raises DiffusersError.

    projection: weight and bias of a layer in the U-Net that the tokens pass first.
    """
    config = read_json(encoder / "config.json")
    kind = [*(config.get("architectures") or []), ""][0]
    tensors = None
    for stem in ("model", "pytorch_model", "diffusion_pytorch_model"):
        if any(encoder.glob(f"{stem}*")):
            tensors = read_weights(encoder, stem, variant)
            break
    if tensors is None:
        raise DiffusersError(f"{encoder}: its weights, model.safetensors, are missing; is the download complete?")
    content, padding, length = read_tokenizer(tokenizer)
    if kind == "LDMBertModel" and projection is None:
        return read_bert(encoder.name, config, tensors, content, length)
    if kind != "CLIPTextModel":
        raise DiffusersError(
            f"{encoder / 'config.json'}: architectures: {kind!r} cannot be read; permitted: CLIPTextModel, LDMBertModel"
        )
    return read_clip(encoder.name, config, tensors, content, padding, length, projection)


def read_tokenizer(folder: Path) -> tuple[bytes, str, int]:
    """Return the tokenizer.json of a tokenizer's folder, its padding token and its length. Raises DiffusersError."""
    if not folder.is_dir():
        raise DiffusersError(f"{folder}: missing; a model that reads text needs its tokenizer's folder")
    try:
        tokenizer = import_transformers().AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        return tokenizer.backend_tokenizer.to_str().encode(), tokenizer.pad_token, tokenizer.model_max_length
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise DiffusersError(f"{folder}: not a tokenizer that can be read ({first_line(error)})") from None


def read_clip(
    where: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    content: bytes,
    padding: str,
    length: int,
    projection: tuple[Tensor, Tensor] | None,
) -> FrozenTextConditioner:
    """Make the conditioner of a CLIPTextModel: its last hidden states after the final norm, no token masked."""
    try:
        conditioner = FrozenTextConditioner(
            config,
            min(length, config.get("max_position_embeddings", 77)),
            width=None if projection is None else len(projection[0]),
            padding=padding,
            masked=False,
            assets={TOKENIZER_FILE: content},
        )
    except ValueError as error:
        raise DiffusersError(f"{where}: {error}") from None
    load_clip(where, conditioner.encoder, tensors)
    if projection is not None:
        if not isinstance(conditioner.project, nn.Linear):
            raise refused(
                "unet", "encoder_hid_dim_type", "text_proj", "None, for a text encoder of the context's width"
            )
        conditioner.project.load_state_dict({"weight": projection[0], "bias": projection[1]})
    vocabulary = config.get("vocab_size", conditioner.tokenizer.vocabulary)
    if conditioner.tokenizer.vocabulary > vocabulary:
        raise DiffusersError(
            f"{where}.vocab_size: {vocabulary}; the tokenizer has {conditioner.tokenizer.vocabulary} tokens; "
            "give the tokenizer of this model"
        )
    return conditioner


def load_clip(where: str, encoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load the weights of a CLIP text tower, with or without the prefix `text_model.`. Raises DiffusersError."""
    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items() if name not in SPARE}
    plain.pop("embeddings.position_ids", None)
    own = encoder.state_dict()
    names = {name.removeprefix("text_model."): name for name in own}
    problems = {
        "missing": sorted(names.keys() - plain.keys()),
        "unexpected": sorted(plain.keys() - names.keys()),
        "of another shape": [n for n in sorted(names.keys() & plain.keys()) if own[names[n]].shape != plain[n].shape],
    }
    if any(problems.values()):
        lists = "; ".join(f"{what}: {shorten(found)}" for what, found in problems.items() if found)
        raise misfit(where, lists)
    encoder.load_state_dict({names[name]: tensor.float() for name, tensor in plain.items()})


def read_bert(
    where: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], content: bytes, length: int
) -> TextConditioner:
    """Make the conditioner of a LDMBertModel, which masks no token either."""
    c = {**BERT, **{name: value for name, value in config.items() if name in BERT}}
    if c["activation_function"] != "gelu":
        raise refused(where, "activation_function", c["activation_function"], "'gelu'")
    if c["encoder_ffn_dim"] != 4 * c["d_model"]:
        raise refused(where, "encoder_ffn_dim", c["encoder_ffn_dim"], f"{4 * c['d_model']}, 4 times d_model")
    try:
        conditioner = TextConditioner(
            c["d_model"], c["encoder_layers"], min(length, c["max_position_embeddings"]),
            c["encoder_attention_heads"], c["head_dim"], assets={TOKENIZER_FILE: content},
        )  # fmt: skip
    except ValueError as error:
        raise DiffusersError(f"{where}: {error}") from None
    fill(where, conditioner.transformer, token_transformer_names(conditioner.transformer), tensors,
         spare=("to_logits.weight", "to_logits.bias"))  # fmt: skip
    return conditioner
