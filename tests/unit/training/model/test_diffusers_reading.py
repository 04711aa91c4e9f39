"""Folders of diffusers, written by it and read by us: each part answers as theirs does."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import diffusers_folders as made
from tests.support.comparison import relative_error
from training.errors import DarkroomError
from training.model.interop.huggingface import reading
from training.model.interop.huggingface.reading.unet import read_unet
from training.model.latent_diffusion import LatentDiffusion

SIZE = 16


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def read_autoencoder(theirs: Any, folder: Path) -> Any:
    theirs.save_pretrained(folder)
    return reading.read(folder).model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"], "layers_per_block": 2,
         "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"], "in_channels": 1, "out_channels": 1},
        {"shift_factor": 0.3, "use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 16},
        {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 2.0, 1.0, 3.0], "mid_block_add_attention": False},
    ],
    ids=["stable diffusion", "attention", "shift", "statistics"],
)  # fmt: skip
@torch.inference_mode()
def test_autoencoder_kl(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = made.vae(**changes)
    ours = read_autoencoder(theirs, tmp_path)
    c = theirs.config
    mean = torch.tensor(c.latents_mean or [c.shift_factor or 0.0]).reshape(1, -1, 1, 1)
    std = torch.tensor(c.latents_std or [1.0]).reshape(1, -1, 1, 1)
    images = torch.randn(2, c.in_channels, SIZE, SIZE)
    expected = theirs.encode(images).latent_dist
    latents = (expected.mean - mean) / std * c.scaling_factor
    assert relative_error(ours.encode(images), latents) < 1e-5
    assert relative_error(ours.moments(images)[1], expected.std / std * c.scaling_factor) < 1e-5
    assert relative_error(ours.decode(latents), theirs.decode(expected.mean).sample) < 1e-5


@pytest.mark.parametrize("changes", [{}, {"vq_embed_dim": 5}])
@torch.inference_mode()
def test_vq_model(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = made.vq(**changes)
    ours = read_autoencoder(theirs, tmp_path)
    images = torch.randn(2, 3, SIZE, SIZE)
    latents = theirs.encode(images).latents
    assert relative_error(ours.encode(images), latents * theirs.config.scaling_factor) < 1e-5
    assert relative_error(ours.decode(latents * theirs.config.scaling_factor), theirs.decode(latents).sample) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "norm_eps": 1e-6,
         "attention_head_dim": None},
        {"resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet",
         "attn_norm_num_groups": 32, "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
         "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"]},
        {"norm_num_groups": 8, "block_out_channels": [16, 32], "attention_head_dim": 4},
        {"add_attention": False, "in_channels": 6},
    ],
    ids=["ldm", "ddpm", "scale and shift", "groups", "no middle attention"],
)  # fmt: skip
@torch.inference_mode()
def test_unet_2d(changes: dict[str, Any]) -> None:
    theirs = made.plain_unet(**changes)
    ours, _, _ = read_unet(
        "unet", dict(theirs.config, _class_name="UNet2DModel"), theirs.state_dict(), first_timestep=0
    )
    x, t = torch.randn(2, theirs.config.in_channels, 8, 8), torch.tensor([3, 700])
    assert relative_error(ours(x, t), theirs(x, t).sample) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_head_dim": [1, 2], "use_linear_projection": True, "upcast_attention": True},
        {"attention_head_dim": [4, 2]},
        {"transformer_layers_per_block": 2, "down_block_types": ["CrossAttnDownBlock2D"] * 2,
         "up_block_types": ["CrossAttnUpBlock2D"] * 2, "in_channels": 9},
        {"freq_shift": 1, "norm_num_groups": 16, "norm_eps": 1e-6},
    ],
    ids=["1.x", "2.x", "heads by level", "deep", "other norms"],
)  # fmt: skip
@torch.inference_mode()
def test_unet_2d_condition(changes: dict[str, Any]) -> None:
    theirs = made.cross_unet(**changes)
    config = dict(theirs.config, _class_name="UNet2DConditionModel")
    ours, _, _ = read_unet("unet", config, theirs.state_dict(), first_timestep=0)
    x, t = torch.randn(2, theirs.config.in_channels, 8, 8), torch.tensor([3, 700])
    context = torch.randn(2, 5, 32)
    assert relative_error(ours(x, t, context), theirs(x, t, context).sample) < 1e-5


# -- files -----------------------------------------------------------------------------------------


def test_weights_in_other_files(tmp_path: Path) -> None:
    """Half precision, shards, and the pickles of before safetensors."""
    theirs = made.vae()
    theirs.half().save_pretrained(tmp_path / "half", variant="fp16")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    theirs.save_pretrained(tmp_path / "bin", safe_serialization=False)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for name in ("half", "shards", "bin"):
        ours = reading.read(tmp_path / name).model
        torch.testing.assert_close(ours.encoder.conv_in.weight, theirs.encoder.conv_in.weight.float())  # type: ignore


@torch.inference_mode()
def test_attention_by_its_older_names(tmp_path: Path) -> None:
    theirs = made.vae()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for name in list(tensors):
        for new, old in older.items():
            if f".{new}." in name:
                tensors[name.replace(f".{new}.", f".{old}.")] = tensors.pop(name)
    assert any("proj_attn" in name for name in tensors)
    save_file(tensors, path)
    ours = reading.read(tmp_path).model
    images = torch.randn(1, 3, SIZE, SIZE)
    assert relative_error(ours.encode(images), theirs.encode(images).latent_dist.mean * 0.7) < 1e-5  # type: ignore


# -- what is refused ------------------------------------------------------------------------------


def edit(path: Path, **changes: Any) -> None:
    """Set fields of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.fixture(scope="module")
def ldm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small LDMPipeline."""
    folder = tmp_path_factory.mktemp("ldm")
    scheduler = diffusers.DDIMScheduler(**made.SD_BETAS, **made.LEADING)
    diffusers.LDMPipeline(made.vae(latent_channels=3), made.plain_unet(), scheduler).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ("StableDiffusionXLPipeline", "is Stable Diffusion XL, whose U-Net reads two text encoders"),
        ("StableDiffusion3Pipeline", "is Stable Diffusion 3, which is a transformer"),
        ("FluxPipeline", "is Flux, which is a transformer"),
        ("StableVideoDiffusionPipeline", "is for video"),
        ("AnimateDiffPipeline", "is for video"),
        ("DiTPipeline", "is DiT, which is a transformer"),
        ("PixArtAlphaPipeline", "is PixArt, which is a transformer"),
        ("StableDiffusionUpscalePipeline", "is a Stable Diffusion with another kind of condition"),
        ("AudioLDMPipeline", "is for sound"),
        ("MyPipeline", "is not known to Darkroom"),
        ("../evil", "is not known to Darkroom"),
    ],
)
def test_pipelines_that_are_not_ours(index: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": index}))
    with pytest.raises(reading.DiffusersError, match=rf"{told}.*; permitted: AutoencoderKL, VQModel") as caught:
        reading.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("FluxTransformer2DModel", "is Flux"),
        ("UNet3DConditionModel", "is for video"),
        ("AutoencoderKLTemporalDecoder", "is for video"),
        ("ControlNetModel", "is an addition to a model"),
        ("AutoencoderTiny", "is another kind of autoencoder"),
        ("UNet1DModel", "is another kind of U-Net"),
        (None, "None cannot be read"),
    ],
)
def test_parts_that_are_not_ours(kind: str | None, told: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(reading.DiffusersError, match=told):
        reading.read(tmp_path)


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("unet/config.json", {"gated": True}, r"unet\.gated: is not known to diffusers .*; permitted: act_fn, "),
        ("unet/config.json", {"act_fn": "relu"}, r"unet\.act_fn: 'relu' cannot be read; permitted: 'silu', 'swish'"),
        ("unet/config.json", {"mid_block_type": "UNetMidBlock3D"}, r"unet\.mid_block_type: 'UNetMidBlock3D' cannot"),
        ("unet/config.json", {"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, r"'SkipDownBlock2D' cannot be"),
        ("unet/config.json", {"up_block_types": ["UpBlock2D", "UpBlock2D"]}, r"up_block_types: .* as down_block_types"),
        (
            "unet/config.json",
            {"layers_per_block": 2},
            "the weights do not fit the configuration. Tensors missing: .* Give the config.json and the weights of",
        ),
        ("unet/config.json", {"block_out_channels": [32, 48]}, r"block_out_channels: \[32, 48\] cannot be read"),
        ("unet/config.json", {"in_channels": 5}, "of another shape: conv_in"),
        ("unet/config.json", {"sample_size": None}, r"sample_size: None cannot be read; permitted: an integer"),
        ("unet/config.json", {"norm_num_groups": 7}, "not a multiple of 7"),
        ("vqvae/config.json", {"norm_num_groups": 16}, r"vqvae\.norm_num_groups: 16 cannot be read; permitted: 32"),
        (
            "vqvae/config.json",
            {"scaling_factor": 0},
            r"vqvae\.scaling_factor: 0 cannot be read; permitted: a num",
        ),
        ("vqvae/config.json", {"latents_std": [1, 2]}, r"vqvae\.latents_std: .* one number for each of 3 channels"),
        (
            "scheduler/scheduler_config.json",
            {"beta_schedule": "sigmoid"},
            r"beta_schedule: 'sigmoid' cannot",
        ),
        (
            "scheduler/scheduler_config.json",
            {"rescale_betas_zero_snr": True},
            "parameterisation: 'eps' is not",
        ),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, r"scheduler\.trained_betas: \[0\.1\] cannot be"),
        ("model_index.json", {"unet": None}, "names no unet"),
        (
            "model_index.json",
            {"tokenizer": ["transformers", "CLIPTokenizer"]},
            "tokenizer: missing, although",
        ),
    ],
)
def test_configurations_that_are_refused(
    file: str, changes: dict[str, Any], told: str, ldm: Path, tmp_path: Path
) -> None:
    shutil.copytree(ldm, tmp_path, dirs_exist_ok=True)
    edit(tmp_path / file, **changes)
    with pytest.raises(reading.DiffusersError, match=told) as caught:
        reading.read(tmp_path)
    assert "\n" not in str(caught.value)


def damage_weights(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.weight"][0, 0] = float("inf")
    save_file(tensors, path)


def cut_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_text("Not found")


def lose_a_shard(folder: Path) -> None:
    made.plain_unet().save_pretrained(folder / "unet", max_shard_size="100KB")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    next((folder / "unet").glob("*-00002-of-*")).unlink()


def rename_weights(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.non_ema.safetensors"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_weights, r"unet: weights that are not finite: conv_in\.weight; get the file in full precision"),
        (lose_a_shard, r"parts of the model are missing: diffusion_pytorch_model-00002-of"),
        (rename_weights, r"unet: its weights, .* are missing; it has .*non_ema\.safetensors: name one by --variant"),
        (lambda folder: shutil.rmtree(folder / "vqvae"), "vqvae: missing, although model_index.json names it"),
        (lambda folder: (folder / "model_index.json").write_text("{"), r"model_index\.json: not JSON"),
        (lambda folder: (folder / "unet" / "config.json").unlink(), r"unet/config\.json: cannot be read"),
        (cut_weights, "is text, not weights"),
    ],
)
def test_damaged_folders(damage: Callable[[Path], object], told: str, ldm: Path, tmp_path: Path) -> None:
    shutil.copytree(ldm, tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    with pytest.raises(DarkroomError, match=told) as caught:
        reading.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_parts_alone_and_what_they_lack(ldm: Path, tmp_path: Path) -> None:
    with pytest.raises(reading.DiffusersError, match="does not say its noise schedule; give --scheduler FOLDER"):
        reading.read(ldm / "unet")
    scheduler = reading.Sources(scheduler=ldm / "scheduler")
    assert reading.read(ldm / "unet", scheduler).image_size == 8  # pixels, because it has three channels
    made.cross_unet().save_pretrained(tmp_path)
    with pytest.raises(reading.DiffusersError, match="of 4 channels denoises latents; give --autoencoder FOLDER"):
        reading.read(tmp_path, scheduler)
    with pytest.raises(reading.DiffusersError, match="4; the autoencoder has 3 latent channels"):
        reading.read(tmp_path, replace(scheduler, autoencoder=ldm / "vqvae"))
    made.vae().save_pretrained(tmp_path / "vae")
    with pytest.raises(reading.DiffusersError, match="needs its text; give --text-encoder FOLDER"):
        reading.read(tmp_path, replace(scheduler, autoencoder=tmp_path / "vae"))
    for nowhere in (tmp_path / "none", tmp_path / "vae" / "config.json"):
        with pytest.raises(reading.DiffusersError, match="is not a folder"):
            reading.read(nowhere)
    (tmp_path / "empty").mkdir()
    with pytest.raises(reading.DiffusersError, match=r"model_index\.json and config\.json are missing"):
        reading.read(tmp_path / "empty")


@pytest.mark.parametrize("null_trained", [False, True])
def test_classes_are_counted_without_the_null(null_trained: bool, ldm: Path, tmp_path: Path) -> None:
    made.plain_unet(num_class_embeds=6).save_pretrained(tmp_path)
    found = reading.read(tmp_path, reading.Sources(scheduler=ldm / "scheduler"), null_trained=null_trained)
    assert isinstance(found.model, LatentDiffusion)
    schema = found.model.conditioners.schema()["properties"]["class_label"]
    assert schema["maximum"] == (4 if null_trained else 5)
    assert found.guided == null_trained
