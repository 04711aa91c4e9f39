"""What the authors' models are conditioned on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.compvis import TINY_FIRST_STAGE, change_config, random_state, tiny_checkpoint, write_checkpoint
from training.model.interop import compvis
from training.model.latent_diffusion import LatentDiffusion


@pytest.fixture
def parts() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return tiny_checkpoint()


BERT = {
    "target": "ldm.modules.encoders.modules.BERTEmbedder",
    "params": {"n_embed": 16, "n_layer": 1, "vocab_size": 6, "max_seq_len": 7},
}
RESCALER = {
    "target": "ldm.modules.encoders.modules.SpatialRescaler",
    "params": {"n_stages": 1, "in_channels": 5, "out_channels": 3},
}


@pytest.mark.parametrize(
    ("unet", "condition", "key", "tokenizer", "field", "kind"),
    [
        ({"context_dim": 16}, BERT, "caption", True, "caption", "text"),
        ({"context_dim": 16}, BERT, "coordinates_bbox", False, "coordinates_bbox", "token_ids"),
        ({"in_channels": 6}, RESCALER, "segmentation", False, "segmentation", "semantic_map"),
        ({"context_dim": 16}, BERT, "items", True, "caption", "text"),  # a name of torch's
        ({"in_channels": 6}, RESCALER, "image", False, "semantic_map", "semantic_map"),  # a field of all requests
        ({"in_channels": 6}, {"target": "torch.nn.Identity"}, "LR_image", False, "low_resolution", "low_resolution"),
        ({"in_channels": 7}, "__is_first_stage__", "masked_image", False, "masked_image", "masked_image"),
    ],
)
@torch.inference_mode()
def test_every_condition_of_the_authors_is_read(
    tmp_path: Path, parts: Any, unet: dict[str, Any], condition: Any, key: str, tokenizer: bool, field: str, kind: str
) -> None:
    config, _ = parts
    config = change_config("cond_stage_config", condition)(change_config("cond_stage_key", key)(config))
    config["params"]["unet_config"]["params"] |= unet | {"use_spatial_transformer": "context_dim" in unet}
    config["params"]["conditioning_key"] = "crossattn" if "context_dim" in unet else "concat"
    unet_state = random_state(config["params"]["unet_config"], "model.diffusion_model.")
    state = unet_state | random_state(TINY_FIRST_STAGE, "first_stage_model.")
    if condition == "__is_first_stage__":  # such a file holds the first stage twice
        state |= random_state(TINY_FIRST_STAGE, "cond_stage_model.")
    elif condition in (BERT, RESCALER):
        state |= random_state(condition, "cond_stage_model.")
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\ndog\n")
    model = compvis.read(*write_checkpoint(tmp_path, config, state), tokenizer=vocabulary if tokenizer else None)
    assert isinstance(model, LatentDiffusion)
    assert {name: one["type"] for name, one in model.architecture()["conditioners"].items()} == {field: kind}
    conditions = model.conditions([None], (8, 8))
    assert model.predict(torch.randn(1, 3, 8, 8), torch.tensor([5]), conditions).shape == (1, 3, 8, 8)


def test_a_tokenizer_that_the_model_cannot_use_is_refused(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    with pytest.raises(
        compvis.CompVisError, match="tokenizer: this model cannot use one, because its cond_stage_config is un"
    ):
        compvis.read(*write_checkpoint(tmp_path, config, state), tokenizer=tmp_path / "vocab.txt")


@torch.inference_mode()
def test_class_embeddings_in_the_unet_become_a_condition(tmp_path: Path, parts: Any) -> None:
    """Theirs: silu(time_embed(t) + label_emb(y)) reaches every residual block."""
    config, state = parts
    table = torch.randn(5, 128)
    config = change_config("unet_config.params.num_classes", 5)(
        change_config("cond_stage_config", {"target": "torch.nn.Identity"})(config)
    )
    config["params"] |= {"conditioning_key": "adm", "cond_stage_key": "class_label"}
    model = compvis.read(*write_checkpoint(tmp_path, config, state | {"model.diffusion_model.label_emb.weight": table}))
    assert isinstance(model, LatentDiffusion)
    conditions = model.conditions([{"class_label": 2}, None], (8, 8))
    assert conditions.embedding is not None
    assert torch.equal(conditions.embedding, table[[2, 4]])
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 900])
    assert torch.equal(model.predict(x, t, conditions), model.unet(x, t, embedding=table[[2, 4]]))
    config["params"]["conditioning_key"] = "crossattn"
    with pytest.raises(compvis.CompVisError, match="Identity with conditioning_key crossattn and 0 concatenated"):
        compvis.read(*write_checkpoint(tmp_path, config, state | {"model.diffusion_model.label_emb.weight": table}))


def test_a_condition_must_fit_the_unet(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    embedder = {"target": "ldm.modules.encoders.modules.ClassEmbedder", "params": {"n_classes": 5, "embed_dim": 24}}
    config = change_config("cond_stage_config", embedder)(config)
    config["params"]["conditioning_key"] = "crossattn"
    config["params"]["unet_config"]["params"] |= {"use_spatial_transformer": True, "context_dim": 32}
    state = random_state(config["params"]["unet_config"], "model.diffusion_model.") | random_state(
        TINY_FIRST_STAGE, "first_stage_model."
    )
    state["cond_stage_model.embedding.weight"] = torch.randn(5, 24)
    with pytest.raises(compvis.CompVisError, match="gives tokens of width 24; unet_config: context_dim is 32"):
        compvis.read(*write_checkpoint(tmp_path, config, state))
    config["params"]["cond_stage_config"] = "__is_unconditional__"
    del state["cond_stage_model.embedding.weight"]
    with pytest.raises(compvis.CompVisError, match="gives tokens of width none; unet_config: context_dim is 32"):
        compvis.read(*write_checkpoint(tmp_path, config, state))
