"""The reader of each of their classes."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from training.model.interop.compvis.conditioners import bert_embedder, class_embedder, spatial_rescaler
from training.model.interop.compvis.first_stage import autoencoder_kl, autoencoder_vq, identity
from training.model.interop.compvis.reading import CompVisError, Names, class_name, fill
from training.model.interop.compvis.text_towers import frozen_clip, frozen_open_clip
from training.model.interop.compvis.unet import unet_model

READERS: dict[str, Callable[..., tuple[nn.Module, Names]]] = {
    "AutoencoderKL": autoencoder_kl,
    "BERTEmbedder": bert_embedder,
    "ClassEmbedder": class_embedder,
    "FrozenCLIPEmbedder": frozen_clip,
    "FrozenOpenCLIPEmbedder": frozen_open_clip,
    "IdentityFirstStage": identity,
    "SpatialRescaler": spatial_rescaler,
    "TransformerEmbedder": bert_embedder,
    "UNetModel": unet_model,
    "VQModel": autoencoder_vq,
    "VQModelInterface": autoencoder_vq,
}


def build(config: Mapping[str, Any], state_dict: Mapping[str, Tensor], **options: Any) -> nn.Module:
    """Build the module that `config` describes, with the weights of `state_dict`, in eval mode.

    It is an autoencoder, a U-Net, or a conditioner, which is called with the same input as theirs: labels [R], token
    ids [R, M] or one-hot maps [R, C, H, W]. options: for the reader. Raises CompVisError.
    """
    kind = class_name(config)
    if kind not in READERS:
        target = config.get("target") if isinstance(config, Mapping) else config
        raise CompVisError(f"target: {target} cannot be read; permitted: {', '.join(sorted(READERS))}")
    params = config.get("params") or {}
    if not isinstance(params, Mapping):
        raise CompVisError(f"{kind}: params: {params!r} are not parameters")
    try:
        model, names = READERS[kind](params, state_dict, **options)
    except KeyError as error:
        raise CompVisError(f"{kind}: params: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise CompVisError(f"{kind}: params: {error}") from None
    try:
        fill(model, dict(names), state_dict)
    except CompVisError as error:
        raise CompVisError(f"{kind}: {error}") from None
    return model.eval()
