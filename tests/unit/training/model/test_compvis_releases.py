"""What an imported release says about itself: whether it can be guided, its classes, its latent scale."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.compvis import TINY_FIRST_STAGE, change_config, random_state, tiny_checkpoint, write_checkpoint
from tests.support.stable_diffusion import stable_diffusion, write_tokenizer
from training.model.conditioners.layout import LayoutConditioner
from training.model.interop.compvis import CompVisError
from training.model.interop.compvis.options import Options
from training.model.interop.compvis.release import import_release
from training.model.latent_diffusion import load_autoencoder, load_diffusion
from training.model.release import Release


def write_model(
    folder: Path, embedder: dict[str, Any] | None = None, *, key: str = "class_label", **params: Any
) -> tuple[Path, Path]:
    """Write a tiny diffusion model with an embedder of width 16 for cross-attention."""
    config, state = tiny_checkpoint()
    config = copy.deepcopy(config)
    config["params"] |= params
    if embedder is not None:
        config["params"] |= {"cond_stage_config": embedder, "cond_stage_key": key, "conditioning_key": "crossattn"}
        unet = config["params"]["unet_config"]
        unet["params"] |= {"use_spatial_transformer": True, "context_dim": 16}
        state = {name: tensor for name, tensor in state.items() if name.startswith("first_stage_model.")}
        state |= random_state(unet, "model.diffusion_model.") | random_state(embedder, "cond_stage_model.")
    return write_checkpoint(folder, config, state)


def convert(files: tuple[Path, Path], **options: Any) -> Release:
    return import_release(*files, files[0].parent / "release", name="imported", options=Options(**options))[0]


def classes(n: int) -> dict[str, Any]:
    return {"target": "ldm.modules.encoders.modules.ClassEmbedder", "params": {"embed_dim": 16, "n_classes": n}}


@pytest.mark.parametrize(("key", "field"), [("label", "label"), ("seed", "class_label"), ("keys", "class_label")])
def test_a_condition_keeps_its_name_unless_no_condition_can_have_it(tmp_path: Path, key: str, field: str) -> None:
    assert list(convert(write_model(tmp_path, classes(3), key=key)).conditions["properties"]) == [field]


@pytest.mark.parametrize(
    ("embedder", "params", "options", "guided", "last"),
    [
        (classes(1001), {}, {}, True, 999),  # cin256-v2
        (classes(1000), {}, {}, False, 999),  # cin256
        (classes(11), {}, {}, False, 10),
        (classes(11), {}, {"null_trained": True}, True, 9),
        (classes(11), {"ucg_training": {"class_label": {"p": 0.1, "val": 10}}}, {}, True, 9),
        (classes(11), {"ucg_training": {"class_label": {"p": 0.0, "val": 10}}}, {}, False, 10),
    ],
)
def test_the_null_is_no_class_and_guides_only_if_it_was_trained(
    tmp_path: Path, embedder: Any, params: Any, options: Any, guided: bool, last: int
) -> None:
    release = convert(write_model(tmp_path, embedder, **params), **options)
    assert release.guided is guided
    assert release.conditions["properties"]["class_label"] == {"type": "integer", "minimum": 0, "maximum": last}


BERT: dict[str, Any] = {
    "target": "ldm.modules.encoders.modules.BERTEmbedder",
    "params": {"n_embed": 16, "n_layer": 1, "vocab_size": 64, "max_seq_len": 11},
}
LAYOUT = {**BERT, "params": {**BERT["params"], "use_tokenizer": False}}


def test_a_layout_model_takes_boxes_and_labels(tmp_path: Path) -> None:
    files = write_model(tmp_path, LAYOUT, key="coordinates_bbox")
    with pytest.raises(CompVisError, match=r"this is a layout model; give the number of its labels \(--classes\)"):
        convert(files)
    with pytest.raises(CompVisError, match="classes: 32 is not allowed; permitted: from 1 to 31 with this vocabulary"):
        convert(files, classes=32)
    release = convert(files, classes=20)
    assert not release.guided
    model, _ = load_diffusion(tmp_path / "release")
    one = {"class": 3, "box": [0, 0, 0.5, 1], "group": True}
    value = {"boxes": [one], "crop": [0, 0, 1, 0.5]}
    layout = model.conditioners["layout"]
    assert isinstance(layout, LayoutConditioner)
    assert layout.read(value) == [23, 0, 60, *[63] * 6, 0, 39], "as taming-transformers' builder: 3 objects and a crop"
    ids = convert(files, token_ids=True)
    assert ids.conditions["properties"]["coordinates_bbox"]["type"] == "array"


def test_a_text_model_needs_its_tokenizer(tmp_path: Path) -> None:
    files = write_model(tmp_path, BERT, key="caption")
    with pytest.raises(
        CompVisError, match=r"BERTEmbedder reads texts; give the tokenizer of bert-base-uncased \(--tok"
    ):
        convert(files)
    assert not convert(files, token_ids=True).guided
    with pytest.raises(CompVisError, match="classes: only a layout model needs them; cond_stage_key is caption"):
        convert(files, classes=3)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{i}" for i in range(60))]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    assert convert(files).guided, "the one beside the checkpoint"
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary[:50]))
    with pytest.raises(CompVisError, match="vocab_size: 64; the tokenizer has 50 word pieces"):
        convert(files)


def test_clip_needs_its_tokenizer(tmp_path: Path) -> None:
    files = write_checkpoint(tmp_path, *stable_diffusion(write_tokenizer(tmp_path / "elsewhere")))
    with pytest.raises(
        CompVisError, match=r"FrozenCLIPEmbedder reads texts; give the tokenizer of CLIP \(--tokenizer\)$"
    ):
        convert(files)
    with pytest.raises(CompVisError, match=r"has no tokenizer; permitted: tokenizer\.json, vocab\.json, vocab\.txt"):
        convert(files, tokenizer=tmp_path)
    assert convert(files, tokenizer=tmp_path / "elsewhere").guided


def test_the_latent_scale_is_never_one_in_silence(tmp_path: Path) -> None:
    def scale(files: tuple[Path, Path], **options: Any) -> tuple[float, str]:
        stated = convert(files, **options).lineage["latent_scale"]
        assert float(load_autoencoder(tmp_path / "release")[0].latent_scale) == stated["value"]
        return stated["value"], stated["from"]

    assert scale(write_model(tmp_path)) == (0.5, "configuration")
    assert scale(write_model(tmp_path), latent_scale=0.25) == (0.25, "given")
    config, state = tiny_checkpoint()
    del config["params"]["scale_factor"]
    config["params"]["scale_by_std"] = True
    with pytest.raises(
        CompVisError, match=r"scale_by_std: True, but the file has no scale_factor; give it \(--latent-sc"
    ):
        convert(write_checkpoint(tmp_path, config, state))
    assert scale(write_checkpoint(tmp_path, config, state | {"scale_factor": torch.tensor(0.25)})) == (0.25, "file")
    alone = write_checkpoint(tmp_path, TINY_FIRST_STAGE, random_state(TINY_FIRST_STAGE, ""))
    assert scale(alone) == (1.0, "not measured")
    assert scale(alone, latent_scale=0.5) == (0.5, "given")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, number: float) -> None:
    config, state = tiny_checkpoint()
    key = "model.diffusion_model.out.2.bias"
    state[key] = torch.full_like(state[key], number).half()
    with pytest.raises(CompVisError, match=rf"contain NaN or infinity, .*: {key}\. Take the file in full precision"):
        convert(write_checkpoint(tmp_path, config, state))
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): torch.ones_like(tensor)
        for name, tensor in state.items()
        if name.startswith("model.")
    }
    schedule = {"sqrt_recip_alphas_cumprod": torch.tensor([1.0, float("inf")])}
    assert convert(write_checkpoint(tmp_path, config, state | averages | schedule)), "what is not read may be anything"


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    config, state = tiny_checkpoint()
    key = "model.diffusion_model.out.2.bias"
    state[key] = state[key].to(torch.int8)
    with pytest.raises(CompVisError, match=r"Keys that are no floating-point numbers: out\.2\.bias torch\.int8"):
        convert(write_checkpoint(tmp_path, config, state))


def test_averages_without_any_average_are_none(tmp_path: Path) -> None:
    config, state = tiny_checkpoint()
    state |= {"model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(3)}
    assert convert(write_checkpoint(tmp_path, config, state)).lineage["weights"] == "raw"


@pytest.mark.parametrize(
    ("target", "key", "told"),
    [
        ("sgm.models.diffusion.DiffusionEngine", None, "is Stable Diffusion XL or another model of Stability's"),
        ("ldm.models.diffusion.ddpm.LatentUpscaleDiffusion", None, "is Stable Diffusion's upscaler"),
        ("lvdm.models.ddpm3d.LatentDiffusion", None, "is a video model"),
        (None, "conditioner.embedders.0.transformer.x", "the weights are those of Stable Diffusion XL"),
        (None, "blocks.3.adaLN_modulation.1.weight", "the weights are those of a diffusion transformer"),
        (None, "model.diffusion_model.input_blocks.1.1.time_stack.0.weight", "the weights are those of a video model"),
        (None, "lora_unet_down_blocks_0.lora_down.weight", "the weights are those of a LoRA"),
    ],
)
def test_other_architectures_are_named(tmp_path: Path, target: str | None, key: str | None, told: str) -> None:
    config, state = tiny_checkpoint()
    extra: dict[str, Tensor] = {key: torch.ones(1)} if key else {}
    if target:
        config["target"] = target
    with pytest.raises(CompVisError, match=f"{told}.*; Darkroom has no such model"):
        convert(write_checkpoint(tmp_path, config, state | extra))


def test_a_license_travels_along(tmp_path: Path) -> None:
    files = write_model(tmp_path)
    (tmp_path / "LICENSE.md").write_text("CreativeML Open RAIL-M")
    (tmp_path / "notes.md").write_text("mine")
    release = convert(files)
    assert "LICENSE.md" in release.files
    assert (tmp_path / "release" / "LICENSE.md").read_text() == "CreativeML Open RAIL-M"
    assert "notes.md" not in release.files


def test_configurations_that_contradict_the_weights_are_refused(tmp_path: Path) -> None:
    config, state = stable_diffusion(write_tokenizer(tmp_path / "tokenizer"))
    for path, value, told in (
        ("unet_config.params.in_channels", 9, r"of another shape: input_blocks.0.0.weight \(32, 4, 3, 3\)"),
        ("unet_config.params.context_dim", 32, "attn2.to_k.weight"),
        ("cond_stage_config.params.max_length", 99, "length: 99 is not allowed; permitted: at most 16"),
        ("cond_stage_config.params.layer", "pooled", "layer: 'pooled' cannot be read; permitted: 'last'"),
        (
            "cond_stage_config.target",
            "ldm.modules.encoders.modules.FrozenT5Embedder",
            "FrozenT5Embedder cannot be read",
        ),
        ("conditioning_key", "hybrid", "FrozenCLIPEmbedder with conditioning_key hybrid and 0 concatenated"),
    ):
        with pytest.raises(CompVisError, match=told):
            convert(write_checkpoint(tmp_path, change_config(path, value)(config), state))
