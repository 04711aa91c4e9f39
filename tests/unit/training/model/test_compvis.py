"""Our networks against answers recorded from the authors' code, where those recordings are at hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.support.comparison import relative_error
from training.model.attention_layers import join_projections
from training.model.autoencoder import Autoencoder
from training.model.conditioners.semantic_map import SemanticMapConditioner
from training.model.conditioners.token_ids import TokenIdsConditioner
from training.model.interop import compvis

GOLDENS = Path(__file__).parents[5] / "shared" / "goldens"
TOLERANCE = 1e-5


def golden(name: str) -> tuple[dict[str, object], dict[str, Tensor], dict[str, Tensor]]:
    if not (GOLDENS / f"{name}.json").is_file():
        pytest.skip(f"{GOLDENS / name} is absent: recorded answers of the authors' code are not part of the project")
    config = json.loads((GOLDENS / f"{name}.json").read_text())["config"]
    tensors = load_file(GOLDENS / f"{name}.safetensors")
    weights = {key.removeprefix("weights/"): t.float() for key, t in tensors.items() if key.startswith("weights/")}
    return config, weights, {key: tensor for key, tensor in tensors.items() if not key.startswith("weights/")}


@pytest.mark.parametrize("name", ["autoencoder_kl_f4", "autoencoder_kl_f8_attn"])
@torch.inference_mode()
def test_kl_autoencoders_equal_the_authors(name: str) -> None:
    config, weights, recorded = golden(name)
    model = compvis.build(config, weights)
    assert isinstance(model, Autoencoder)
    posterior = model.posterior(recorded["input/image"])
    assert relative_error(posterior.mean, recorded["output/mode"]) < TOLERANCE
    assert relative_error(posterior.logvar, recorded["output/moments"].chunk(2, 1)[1].clamp(-30, 20)) < TOLERANCE
    assert relative_error(model.encode(recorded["input/image"]), recorded["output/mode"]) < TOLERANCE
    assert relative_error(model.decode(recorded["output/mode"]), recorded["output/decoded"]) < TOLERANCE


@pytest.mark.parametrize("name", ["autoencoder_vq_f4", "autoencoder_vq_f4_noattn"])
@torch.inference_mode()
def test_vq_autoencoders_equal_the_authors(name: str) -> None:
    config, weights, recorded = golden(name)
    model = compvis.build(config, weights)
    assert isinstance(model, Autoencoder)
    latents = model.encode(recorded["input/image"])
    assert relative_error(latents, recorded["output/latent"]) < TOLERANCE
    quantised = model.quantise(latents)
    assert torch.equal(quantised.indices.flatten(), recorded["output/indices"])
    assert relative_error(quantised.latents, recorded["output/quantized"]) < TOLERANCE
    assert relative_error(quantised.loss, recorded["output/codebook_loss"][0]) < TOLERANCE
    assert relative_error(model.decode(latents), recorded["output/decoded"]) < TOLERANCE
    assert relative_error(model.decode(quantised.latents, quantise=False), recorded["output/decoded"]) < TOLERANCE


@torch.inference_mode()
def test_the_token_transformer_equals_the_authors() -> None:
    config, weights, recorded = golden("bert_embedder")
    model = compvis.build(config, weights)
    assert isinstance(model, TokenIdsConditioner)
    ids = recorded["input/token_ids"]
    assert relative_error(model(ids), recorded["output/context"]) < TOLERANCE
    assert relative_error(model.embed(ids.tolist()), recorded["output/context"]) < TOLERANCE


@torch.inference_mode()
def test_the_spatial_rescaler_equals_the_authors() -> None:
    config, weights, recorded = golden("spatial_rescaler")
    model = compvis.build(config, weights)
    assert isinstance(model, SemanticMapConditioner)
    assert relative_error(model(recorded["input/segmentation"]), recorded["output/latent"]) < TOLERANCE
    labels = torch.randint(12, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    one_hot = torch.nn.functional.one_hot(labels, 12).permute(0, 3, 1, 2).float()
    assert relative_error(model.embed(list(labels), (8, 8), lambda x: x), model(one_hot)) < TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        "unet_cross_attention",
        "unet_class_crossattn_1head",
        "unet_unconditional",
        "unet_updown_scaleshift",
        "unet_concat_inpaint",
    ],
)
@torch.inference_mode()
def test_unets_equal_the_authors(name: str) -> None:
    config, weights, recorded = golden(name)
    model = compvis.build(config, weights)
    found = model(recorded["input/x"], recorded["input/t"], recorded.get("input/context"))
    assert relative_error(found, recorded["output/eps"]) < TOLERANCE
    join_projections(model)
    assert torch.equal(model(recorded["input/x"], recorded["input/t"], recorded.get("input/context")), found)


SMALL: dict[str, Any] = {
    "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
    "params": {
        "image_size": 8,
        "in_channels": 2,
        "out_channels": 2,
        "model_channels": 32,
        "attention_resolutions": [1],
        "num_res_blocks": 1,
        "channel_mult": [1],
        "num_heads": 2,
    },
}


def their_state(config: dict[str, Any]) -> dict[str, Tensor]:
    """A state dict of the authors' layout: each source of ours at its shape."""
    model, names = compvis.READERS[str(config["target"]).rpartition(".")[2]](config["params"], {})
    sources, state = dict(names), {}
    for name, tensor in model.state_dict().items():
        prefix, _, leaf = name.rpartition(".")
        source = sources[prefix]
        state[f"{source.prefix}.{leaf}"] = tensor if source.third is None else torch.cat([tensor] * 3)
    return state


def test_missing_and_unexpected_keys_are_refused() -> None:
    state = their_state(SMALL)
    assert isinstance(compvis.build(SMALL, state), nn.Module)
    del state["middle_block.1.qkv.weight"]
    state["stray.weight"] = torch.zeros(1)
    state["out.2.bias"] = torch.zeros(5)
    with pytest.raises(compvis.CompVisError) as caught:
        compvis.build(SMALL, state)
    message = str(caught.value)
    assert "missing: middle_block.1.qkv.weight" in message
    assert "unexpected: stray.weight" in message
    assert "of another shape: out.2.bias (5,)" in message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target": "ldm.models.autoencoder.VQModel", "params": {}}, "VQModel: params: n_embed is missing"),
        ({"target": "ldm.modules.encoders.modules.FrozenT5Embedder"}, "FrozenT5Embedder cannot be read; permitted"),
        ({**SMALL, "params": {**SMALL["params"], "num_classes": 10}}, "num_classes: 10 cannot be read"),
        ({**SMALL, "params": {**SMALL["params"], "num_heads": 5}}, "heads: 5 does not divide the width 32"),
        ({**SMALL, "params": {**SMALL["params"], "dropout": float("nan")}}, "dropout: nan cannot be read"),
        ({"target": "SpatialRescaler", "params": {"out_channels": 3, "n_stages": -1}}, "n_stages: -1 cannot be read"),
        ({**SMALL, "params": {**SMALL["params"], "dims": 3}}, "dims: 3 cannot be read; permitted: 2"),
        ({**SMALL, "params": {**SMALL["params"], "depth": 3}}, "depth: is not known; permitted: .*in_channels"),
        ({**SMALL, "params": {**SMALL["params"], "context_dim": 3}}, "context_dim: needed with"),
    ],
)
def test_unreadable_configurations_are_refused_by_parameter(config: dict[str, object], message: str) -> None:
    with pytest.raises(compvis.CompVisError, match=message):
        compvis.build(config, {})


@torch.inference_mode()
def test_equivalent_configurations_of_a_unet_are_the_same_function() -> None:
    """The newer order of a fused qkv, heads given by their width, resampling without a convolution."""
    torch.manual_seed(0)
    params = {**SMALL["params"], "channel_mult": [1, 2], "attention_resolutions": (1, 2), "conv_resample": False}
    config = {**SMALL, "params": {**params, "num_heads": 4}}
    state = {key: torch.randn(value.shape) * 0.1 for key, value in their_state(config).items()}
    x, t = torch.randn(2, 2, 8, 8), torch.tensor([1, 500])
    expected = compvis.build(config, state)(x, t)
    reordered = {
        key: value.unflatten(0, (4, 3, -1)).transpose(0, 1).flatten(0, 2) if ".qkv." in key else value
        for key, value in state.items()
    }
    newer = {**SMALL, "params": {**params, "num_heads": 4, "use_new_attention_order": True, "legacy": False}}
    torch.testing.assert_close(compvis.build(newer, reordered)(x, t), expected)
    wide = {"target": SMALL["target"], "params": {**params, "num_head_channels": 8}}
    narrow = {"target": SMALL["target"], "params": {**params, "num_heads": -1, "num_head_channels": 8}}
    torch.testing.assert_close(compvis.build(wide, state)(x, t), compvis.build(narrow, state)(x, t))
