"""Whole checkpoints of the authors: sampling runs, released layouts, and files that must not be trusted."""

import gzip
import json
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.unit.training.model.comparison import relative_error
from training.model import sampling
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners.classes import ClassConditioner
from training.model.guidance import Guidance
from training.model.interop import compvis
from training.model.interop.compvis.targets import READERS
from training.model.latent_diffusion import LatentDiffusion

GOLDENS = Path(__file__).parents[5] / "shared" / "goldens"
PREFIXES = {
    "unet_config": "model.diffusion_model.",
    "first_stage_config": "first_stage_model.",
    "cond_stage_config": "cond_stage_model.",
}


def recorded(name: str) -> Path:
    if not (GOLDENS / name).exists():
        pytest.skip(f"{GOLDENS / name} is absent: recorded answers of the authors' code are not part of the project")
    return GOLDENS / name


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("name", ["ldm_class_kl", "ldm_unconditional_vq"])
@torch.inference_mode()
def test_sampling_runs_end_where_the_authors_did(name: str, weights: str) -> None:
    folder = recorded(name)
    model = compvis.read(folder / "model.ckpt", folder / "config.yaml", weights=weights)  # type: ignore[arg-type]
    assert isinstance(model, LatentDiffusion)
    tensors, run = load_file(folder / "sampling.safetensors"), json.loads((folder / "sampling.json").read_text())
    start = tensors["x_T"]
    requests: list[dict[str, Any]] = [{} for _ in start]
    if model.conditioners:
        embedder = model.conditioners["class_label"]
        assert isinstance(embedder, ClassConditioner)
        table = embedder.embedding.weight
        requests = [{"class_label": int((table - token).norm(dim=1).argmin())} for token in tensors["context"][:, 0]]
        assert torch.equal(embedder.embed([request["class_label"] for request in requests]), tensors["context"])
        assert torch.equal(embedder.embed([None] * len(start)), tensors["uncond_context"])
    latents: list[Tensor] = []
    images = sampling.generate(
        model,
        requests,
        range(len(start)),
        latent_shape=start.shape[1:],
        start=start,
        sampler=sampling.Sampler(run["sampler"], run["steps"], "leading", eta=run["eta"]),
        guidance=Guidance(run["guidance_scale"]),
        on_latents=latents.append,
    )
    suffix = "_ema" if weights == "ema" else ""
    assert relative_error(latents[0], tensors[f"latent{suffix}"]) < 1e-4
    assert relative_error(images, tensors[f"image{suffix}"].clamp(-1, 1)) < 1e-4


@pytest.mark.parametrize("name", ["celebahq-ldm-vq-4", "cin256-v2", "lsun_churches-ldm-kl-8", "txt2img-1p4B"])
def test_released_layouts_have_exactly_our_tensors(name: str) -> None:
    folder = recorded("released_layouts")
    params = json.loads((folder / f"{name}.config.json").read_text())["params"]
    shapes = json.loads(gzip.decompress((folder / f"{name}.keys.json.gz").read_bytes()))
    theirs = ours = 0
    for block, prefix in PREFIXES.items():
        state = {
            key.removeprefix(prefix): torch.empty(shape, device="meta")
            for key, shape in shapes.items()
            if key.startswith(prefix)
        }
        if params[block] == "__is_unconditional__":
            assert not state
            continue
        with torch.device("meta"):
            model = compvis.build(params[block], state)  # strict: no key is left, no tensor of ours unfilled
        theirs += sum(tensor.numel() for key, tensor in state.items() if "to_logits" not in key)
        ours += sum(parameter.numel() for parameter in model.parameters())
    assert ours == theirs
    assert sum(torch.Size(shape).numel() for key, shape in shapes.items() if "to_logits" not in key) == theirs


TINY_UNET = {
    "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
    "params": {
        "image_size": 8, "in_channels": 3, "out_channels": 3, "model_channels": 32, "attention_resolutions": [1],
        "num_res_blocks": 1, "channel_mult": [1], "num_heads": 2,
    },
}  # fmt: skip
TINY_FIRST_STAGE = {
    "target": "ldm.models.autoencoder.AutoencoderKL",
    "params": {
        "embed_dim": 3,
        "ddconfig": {
            "double_z": True, "z_channels": 3, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
        },
    },
}  # fmt: skip


def theirs(block: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """A state dict of the authors' layout with random weights."""
    model, names = READERS[block["target"].rpartition(".")[2]](block["params"], {})
    sources, state = dict(names), {}
    for name, tensor in model.state_dict().items():
        at, _, leaf = name.rpartition(".")
        if at in sources:
            value = torch.randn(tensor.shape) * 0.05
            state[f"{prefix}{sources[at].prefix}.{leaf}"] = (
                value if sources[at].third is None else torch.cat([value] * 3)
            )
    return state


@pytest.fixture
def parts() -> tuple[dict[str, Any], dict[str, Tensor]]:
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            "linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000, "scale_factor": 0.5,
            "unet_config": TINY_UNET, "first_stage_config": TINY_FIRST_STAGE,
            "cond_stage_config": "__is_unconditional__",
        },
    }  # fmt: skip
    state = theirs(TINY_UNET, "model.diffusion_model.") | theirs(TINY_FIRST_STAGE, "first_stage_model.")
    return config, state


def write(folder: Path, config: Any, state: Any) -> tuple[Path, Path]:
    checkpoint, described = folder / "model.ckpt", folder / "config.yaml"
    torch.save({"state_dict": state}, checkpoint)
    described.write_text(yaml.safe_dump({"model": config}))
    return checkpoint, described


def test_released_defects_are_tolerated(tmp_path: Path, parts: Any) -> None:
    """No global_step, stray sampler and schedule buffers, a discriminator's weights."""
    config, state = parts
    strays = {"ddim_sigmas": torch.ones(3), "betas": torch.ones(1000), "sqrt_alphas_cumprod": torch.ones(1000)}
    strays["first_stage_model.loss.discriminator.weight"] = torch.ones(2)
    model = compvis.read(*write(tmp_path, config, state | strays))
    assert isinstance(model, LatentDiffusion)
    assert float(model.autoencoder.latent_scale) == 0.5
    measured = compvis.read(*write(tmp_path, config, state | {"scale_factor": torch.tensor(0.25)}))
    assert isinstance(measured, LatentDiffusion)
    assert float(measured.autoencoder.latent_scale) == 0.25


def test_safetensors_and_autoencoders_alone_are_read(tmp_path: Path) -> None:
    _, config = write(tmp_path, TINY_FIRST_STAGE, {})
    save_file(theirs(TINY_FIRST_STAGE, "") | {"loss.logvar": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert isinstance(compvis.read(tmp_path / "model.safetensors", config), Autoencoder)


def test_averages_are_found_under_their_names_without_dots(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    name = "model.diffusion_model."
    averages = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): tensor + 1
        for key, tensor in state.items()
        if key.startswith(name)
    }
    paths = write(tmp_path, config, state | averages | {"model_ema.decay": torch.tensor(0.9999)})
    average, raw = (compvis.read(*paths, weights=weights) for weights in (None, "raw"))  # type: ignore[arg-type]
    assert isinstance(average, LatentDiffusion)
    assert isinstance(raw, LatentDiffusion)
    for ours, other in zip(average.unet.parameters(), raw.unet.parameters(), strict=True):
        torch.testing.assert_close(ours, other + 1)
    del averages["model_ema.diffusion_modelout0weight"]
    with pytest.raises(compvis.CompVisError, match=r"Keys missing: model_ema\.diffusion_modelout0weight"):
        compvis.read(*write(tmp_path, config, state | averages))
    with pytest.raises(compvis.CompVisError, match=r"weights: the file holds no averaged \(ema\) weights; take raw"):
        compvis.read(*write(tmp_path, config, state), weights="ema")


def test_averages_of_an_autoencoder_alone_are_read_too(tmp_path: Path) -> None:
    raw = theirs(TINY_FIRST_STAGE, "")
    averages = {"model_ema." + key.replace(".", ""): tensor + 1 for key, tensor in raw.items()}
    both = raw | averages | {"model_ema.num_updates": torch.tensor(3), "colorize": torch.zeros(3, 9, 1, 1)}
    paths = write(tmp_path, TINY_FIRST_STAGE, both)
    average, plain = compvis.read(*paths), compvis.read(*paths, weights="raw")
    for ours, other in zip(average.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, other + 1)
    with pytest.raises(compvis.CompVisError, match=r"weights: the file holds no averaged \(ema\) weights; take raw"):
        compvis.read(*write(tmp_path, TINY_FIRST_STAGE, raw), weights="ema")


def test_what_the_trainer_left_in_a_file_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Released files name Lightning's ModelCheckpoint, by its old module, beside their tensors."""
    path = "pytorch_lightning.callbacks.model_checkpoint"
    checkpoint_class = type("ModelCheckpoint", (), {"__module__": path})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", path):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[path], "ModelCheckpoint", checkpoint_class, raising=False)
    callback = checkpoint_class()
    callback.monitor = "val/rec_loss"
    _, config = write(tmp_path, TINY_FIRST_STAGE, {})
    content = {
        "callbacks": {checkpoint_class: {"best_model_score": np.float64(0.5)}, "saved": callback},
        "state_dict": theirs(TINY_FIRST_STAGE, ""),
    }
    torch.save(content, tmp_path / "model.ckpt")
    monkeypatch.undo()
    assert isinstance(compvis.read(tmp_path / "model.ckpt", config), Autoencoder)


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/darkroom-was-here",)


def test_a_pickle_with_code_is_refused_unread(tmp_path: Path, parts: Any) -> None:
    config, _ = parts
    checkpoint, described = write(tmp_path, config, {"model.weight": Malicious()})
    marker = Path("/tmp/darkroom-was-here")
    marker.unlink(missing_ok=True)
    for content in (checkpoint.read_bytes(), pickle.dumps(Malicious())):
        checkpoint.write_bytes(content)
        with pytest.raises(compvis.CompVisError, match="refused, it holds more than tensors") as caught:
            compvis.read(checkpoint, described)
        assert "\n" not in str(caught.value)
    assert not marker.exists()


def change(path: str, value: Any) -> Any:
    def changed(config: dict[str, Any]) -> dict[str, Any]:
        config = json.loads(json.dumps(config))
        *parents, last = path.split(".")
        block = config["params"]
        for name in parents:
            block = block[name]
        block[last] = value
        return config

    return changed


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (change("beta_schedule", "quadratic"), "model.params: beta_schedule: 'quadratic' cannot be read; permitted"),
        (change("parameterization", "mu"), "parameterization: 'mu' cannot be read; permitted: eps, x0, v"),
        (change("unet_config.params.out_channels", 4), "of another shape: out.2.weight"),
        (change("unet_config.params.num_res_blocks", 2), "missing: input_blocks.2"),
        (change("unet_config.params.model_channels", 48), "channels: 48 is not a multiple of 32"),
        (change("first_stage_config.params.ddconfig.ch_mult", [1, 2]), "of another shape: "),
        (change("cond_stage_config", "__is_first_stage__"), "first stage with conditioning_key concat and 0"),
        (change("cosine_s", 0.01), "model.params: cosine_s: 0.01 cannot be read; permitted: 0.008"),
        (change("linear_start", "a lot"), "model.params: linear_start: 'a lot' cannot be read; permitted: a number"),
        (change("unet_config.params.num_classes", 7), "num_classes: 7, but label_emb.weight is missing"),
        (change("unet_config", 3), "target: 3 cannot be read"),
        (change("unet_config.params.in_channels", -1), "in_channels: -1 cannot be read; permitted: positive integers"),
        (change("unet_config.params.num_heads", None), "num_heads: missing"),
        (change("first_stage_config.params.ddconfig", [1]), "AutoencoderKL: params: [1] are not parameters"),
        (change("first_stage_config.params.embed_dim", True), "embed_dim: True cannot be read"),
        (change("timesteps", float("inf")), "timesteps: inf cannot be read; permitted: a number"),
        (change("cond_stage_key", "../key"), "cond_stage_key: '../key' cannot be read; permitted: letters, digits"),
        (change("cond_stage_config", {"target": "FrozenCLIPEmbedder"}), "FrozenCLIPEmbedder cannot be read; permitted"),
        (change("unet_config.params", "none"), "UNetModel: params: 'none' are not parameters"),
        (
            change("unet_config", {"target": "UNetModel", "params": {"num_heads": 1}}),
            "params: in_channels is missing",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_told(tmp_path: Path, parts: Any, changed: Any, told: str) -> None:
    config, state = parts
    with pytest.raises(compvis.CompVisError) as caught:
        compvis.read(*write(tmp_path, changed(config), state))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_told(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    checkpoint, described = write(tmp_path, config, state)

    def told() -> str:
        with pytest.raises(compvis.CompVisError) as caught:
            compvis.read(checkpoint, described)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "missing or damaged" in told()
    checkpoint.unlink()
    assert "missing or damaged" in told()
    torch.save([1, 2], checkpoint)
    assert "holds no state_dict of tensors" in told()
    checkpoint.write_bytes(whole)
    described.write_text("model: [")
    assert "not YAML" in told()
    described.write_text("model: {}")
    assert "model.target is missing" in told()
    described.write_text("model: {target: some.Other}")
    assert "model.target: some.Other cannot be read; permitted: DDPM, LatentDiffusion" in told()
    described.unlink()
    assert "config.yaml: cannot be read" in told()


def test_unknown_keys_are_listed(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    with pytest.raises(compvis.CompVisError, match=r"Keys unexpected: other\.weight"):
        compvis.read(*write(tmp_path, config, state | {"other.weight": torch.ones(1)}))
    with pytest.raises(compvis.CompVisError, match=r"unconditional, but the file has cond_stage_model\.weight"):
        compvis.read(*write(tmp_path, config, state | {"cond_stage_model.weight": torch.ones(1)}))


def test_an_inpainting_checkpoint_takes_masked_images(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    config = change("unet_config.params.in_channels", 7)(change("cond_stage_config", "__is_first_stage__")(config))
    state |= theirs(config["params"]["unet_config"], "model.diffusion_model.")
    model = compvis.read(*write(tmp_path, config, state))
    assert isinstance(model, LatentDiffusion)
    assert list(model.conditioners) == ["masked_image"]


def test_numbers_may_be_written_as_yaml_reads_them(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    model = compvis.read(*write(tmp_path, change("linear_start", "1e-4")(config), state))
    assert isinstance(model, LatentDiffusion)
    assert model.diffusion.config.beta_start == 1e-4


@torch.inference_mode()
def test_classes_of_the_unet_itself_enter_through_the_timestep(tmp_path: Path, parts: Any) -> None:
    """Theirs: silu(time_embed(t) + label_emb(y)) reaches every residual block."""
    config, state = parts
    table = torch.randn(5, 128)
    config = change("unet_config.params.num_classes", 5)(
        change("cond_stage_config", {"target": "torch.nn.Identity"})(config)
    )
    config["params"] |= {"conditioning_key": "adm", "cond_stage_key": "class_label"}
    model = compvis.read(*write(tmp_path, config, state | {"model.diffusion_model.label_emb.weight": table}))
    assert isinstance(model, LatentDiffusion)
    conditions = model.conditions([{"class_label": 2}, None], (8, 8))
    assert conditions.embedding is not None
    assert torch.equal(conditions.embedding, table[[2, 4]])
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 900])
    assert torch.equal(model.predict(x, t, conditions), model.unet(x, t, embedding=table[[2, 4]]))
    config["params"]["conditioning_key"] = "crossattn"
    with pytest.raises(compvis.CompVisError, match="Identity with conditioning_key crossattn and 0 concatenated"):
        compvis.read(*write(tmp_path, config, state | {"model.diffusion_model.label_emb.weight": table}))


def test_a_condition_must_fit_the_unet(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    embedder = {"target": "ldm.modules.encoders.modules.ClassEmbedder", "params": {"n_classes": 5, "embed_dim": 24}}
    config = change("cond_stage_config", embedder)(config)
    config["params"]["conditioning_key"] = "crossattn"
    config["params"]["unet_config"]["params"] |= {"use_spatial_transformer": True, "context_dim": 32}
    state = theirs(config["params"]["unet_config"], "model.diffusion_model.") | theirs(
        TINY_FIRST_STAGE, "first_stage_model."
    )
    state["cond_stage_model.embedding.weight"] = torch.randn(5, 24)
    with pytest.raises(compvis.CompVisError, match="gives tokens of width 24; unet_config: context_dim is 32"):
        compvis.read(*write(tmp_path, config, state))
    config["params"]["cond_stage_config"] = "__is_unconditional__"
    del state["cond_stage_model.embedding.weight"]
    with pytest.raises(compvis.CompVisError, match="gives tokens of width none; unet_config: context_dim is 32"):
        compvis.read(*write(tmp_path, config, state))


@pytest.mark.parametrize("target", ["LatentDiffusion", "DDPM"])
def test_diffusion_in_pixels_is_read(tmp_path: Path, parts: Any, target: str) -> None:
    """Without a first stage, or with the identity as one, whose channels are those of the U-Net."""
    config, state = parts
    config["params"]["first_stage_config"] = {"target": "ldm.models.autoencoder.IdentityFirstStage"}
    if target == "DDPM":
        config = {"target": "ldm.models.diffusion.ddpm.DDPM", "params": config["params"]}
        del config["params"]["first_stage_config"], config["params"]["cond_stage_config"]
    config["params"]["scale_factor"] = 1.0
    state = {key: value for key, value in state.items() if not key.startswith("first_stage_model.")}
    model = compvis.read(*write(tmp_path, config, state))
    assert isinstance(model, LatentDiffusion)
    assert model.autoencoder.config.regularisation == "identity"
    (image,) = sampling.generate(
        model, [{}], [1], latent_shape=(3, 8, 8), sampler=sampling.Sampler("ddim", 2, "leading")
    )
    assert image.shape == (3, 8, 8)


def test_pixel_space_is_a_first_stage_that_does_nothing() -> None:
    model = compvis.build({"target": "ldm.models.autoencoder.IdentityFirstStage"}, {})
    assert isinstance(model, Autoencoder)
    assert model.config == AutoencoderConfig(regularisation="identity", image_channels=3, latent_channels=3)
    pixels = torch.randn(1, 3, 5, 7)
    assert torch.equal(model.decode(model.encode(pixels)), pixels)
