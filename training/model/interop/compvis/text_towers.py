"""Readers of the text towers of Stable Diffusion: CLIP's (1.x) and OpenCLIP's (2.x).

Both become the frozen encoder of the `transformers` library that computes the same.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from training.model.conditioners import Conditioner
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.text_tokenizer import TOKENIZER_FILE, load
from training.model.interop.compvis.reading import Names, Source, check_counts, check_parameters

HEAD_WIDTH = 64  # of every text tower that CLIP and OpenCLIP released
TOWER = "transformer.text_model."  # the names of the `transformers` library, to which all are brought
LAYERS = re.compile(re.escape(TOWER) + r"encoder\.layers\.(\d+)\.")
END = "<|endoftext|>"
ARCH = "ViT-H-14"  # of OpenCLIP, by default
DEPTHS = {"ViT-H-14": 24, "ViT-g-14": 24, "ViT-bigG-14": 32, "ViT-L-14": 12}  # layers of its text tower
# Their names in OpenCLIP, and those of the library
OPEN_CLIP = (
    (r"positional_embedding", "embeddings.position_embedding.weight"),
    (r"token_embedding\.", "embeddings.token_embedding."),
    (r"ln_final\.", "final_layer_norm."),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"encoder.layers.\1.mlp.fc1."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"encoder.layers.\1.mlp.fc2."),
    (r"transformer\.resblocks\.(\d+)\.attn\.", r"encoder.layers.\1.self_attn."),
)
NOT_READ = ("text_projection", "logit_scale", "visual.", "attn_mask")  # of OpenCLIP, which the text tower does not use


def rename_tower(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a text tower's tensors by the names of `transformers`, whichever of the three layouts they have."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix("transformer.").removeprefix("text_model.")
        if key.startswith("model."):
            name = key.removeprefix("model.")
            if name.startswith(NOT_READ):
                continue
            for theirs, ours in OPEN_CLIP:
                name = re.sub(rf"^{theirs}", ours, name)
        elif name.endswith("position_ids") or name.startswith(NOT_READ):  # a count, and a projection for CLIP's loss
            continue
        if fused := re.fullmatch(r"(.*\.)in_proj_(weight|bias)", name):
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{TOWER}{fused[1]}{part}_proj.{fused[2]}"] = third
        else:
            renamed[TOWER + name] = tensor
    return renamed


def drop_last_layer(state: Mapping[str, Tensor], arch: str) -> dict[str, Tensor]:
    """Return a renamed tower without its last layer, which the penultimate layer's output does not need.

    A file that was converted from diffusers lacks it already.
    """
    layers = count_layers(state)
    if layers == DEPTHS.get(arch, 0) - 1:
        return dict(state)
    last = f"{TOWER}encoder.layers.{layers - 1}."
    return {key: tensor for key, tensor in state.items() if not key.startswith(last)}


def count_layers(state: Mapping[str, Tensor]) -> int:
    """Return the number of layers of a renamed tower."""
    return len({found[1] for key in state if (found := LAYERS.match(key))})


def frozen_clip(
    params: Mapping[str, Any], state_dict: Mapping[str, Tensor], assets: Mapping[str, bytes] | None = None
) -> tuple[Conditioner, Names]:
    """Read `FrozenCLIPEmbedder` from a renamed tower: the last layer's output, after its norm."""
    check_parameters(params, ("version", "device", "max_length", "freeze", "layer_idx"), {"layer": "last"})
    version = str(params.get("version", "openai/clip-vit-large-patch14"))
    if not version.startswith(("openai/", "laion/")):
        raise ValueError(f"version: {version!r} is not known; permitted: CLIP models of openai/ and laion/")
    return text_tower(params, state_dict, assets, quick=version.startswith("openai/"), padding=END)


def frozen_open_clip(
    params: Mapping[str, Any], state_dict: Mapping[str, Tensor], assets: Mapping[str, bytes] | None = None
) -> tuple[Conditioner, Names]:
    """Read `FrozenOpenCLIPEmbedder` from a renamed tower, whose last layer is dropped if `layer` is penultimate.

    The final norm follows either layer. Texts are filled with the token 0.
    """
    check_parameters(params, ("arch", "version", "device", "max_length", "freeze", "layer"), {})
    if params.get("layer", "last") not in ("last", "penultimate"):
        raise ValueError(f"layer: {params['layer']!r} cannot be read; permitted: 'last', 'penultimate'")
    quick = str(params.get("arch", ARCH)).endswith("-quickgelu") or params.get("version") == "openai"
    return text_tower(params, state_dict, assets, quick=quick, padding=None)


def text_tower(
    params: Mapping[str, Any],
    state: Mapping[str, Tensor],
    assets: Mapping[str, bytes] | None,
    *,
    quick: bool,
    padding: str | None,
) -> tuple[Conditioner, Names]:
    """Make the conditioner whose sizes a renamed tower's tensors state.

    quick: with QuickGELU, as OpenAI's CLIP. padding: the token that fills texts; None for the token 0.
    """
    if not assets:
        raise ValueError("the tokenizer is missing")
    words, places = (f"{TOWER}embeddings.{name}_embedding.weight" for name in ("token", "position"))
    for key in (words, places, f"{TOWER}encoder.layers.0.mlp.fc1.weight"):
        if key not in state:
            raise ValueError(f"the file has no {key}")
    (vocabulary, width), positions = state[words].shape, len(state[places])
    check_counts({"max_length": params.get("max_length", 77)}, "max_length")
    conditioner = FrozenTextConditioner(
        {
            "model_type": "clip_text_model",
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": len(state[f"{TOWER}encoder.layers.0.mlp.fc1.weight"]),
            "num_hidden_layers": count_layers(state),
            "num_attention_heads": max(1, width // HEAD_WIDTH),
            "max_position_embeddings": positions,
            "hidden_act": "quick_gelu" if quick else "gelu",
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": 0,
        },
        length=params.get("max_length", 77),
        padding=padding or str(load(assets[TOKENIZER_FILE]).id_to_token(0)),
        masked=False,  # padding counts, as in theirs
        assets=assets,
    )
    if conditioner.tokenizer.vocabulary != vocabulary:
        raise ValueError(
            f"the tokenizer has {conditioner.tokenizer.vocabulary} tokens, the model {vocabulary}; give the one of the "
            "model"
        )
    layers = {name.rpartition(".")[0] for name in conditioner.encoder.state_dict()}
    return conditioner, ((f"encoder.{name}", Source(TOWER + name)) for name in sorted(layers))
