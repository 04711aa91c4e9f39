"""Whole checkpoints of the authors: sampling runs, released layouts, averages, configurations."""

import gzip
import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.comparison import relative_error
from tests.support.compvis import TINY_FIRST_STAGE, change_config, random_state, tiny_checkpoint, write_checkpoint
from training.model import sampling
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners.classes import ClassConditioner
from training.model.guidance import Guidance
from training.model.interop import compvis
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
def test_sampling_runs_end_at_the_authors_latents(name: str, weights: Literal["raw", "ema"]) -> None:
    folder = recorded(name)
    model = compvis.read(folder / "model.ckpt", folder / "config.yaml", weights=weights)
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
    random_state = ours = 0
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
        random_state += sum(tensor.numel() for key, tensor in state.items() if "to_logits" not in key)
        ours += sum(parameter.numel() for parameter in model.parameters())
    assert ours == random_state
    assert sum(torch.Size(shape).numel() for key, shape in shapes.items() if "to_logits" not in key) == random_state


@pytest.fixture
def parts() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return tiny_checkpoint()


def test_released_defects_are_tolerated(tmp_path: Path, parts: Any) -> None:
    """No global_step, stray sampler and schedule buffers, a discriminator's weights."""
    config, state = parts
    strays = {"ddim_sigmas": torch.ones(3), "betas": torch.ones(1000), "sqrt_alphas_cumprod": torch.ones(1000)}
    strays["first_stage_model.loss.discriminator.weight"] = torch.ones(2)
    model = compvis.read(*write_checkpoint(tmp_path, config, state | strays))
    assert isinstance(model, LatentDiffusion)
    assert float(model.autoencoder.latent_scale) == 0.5
    measured = compvis.read(*write_checkpoint(tmp_path, config, state | {"scale_factor": torch.tensor(0.25)}))
    assert isinstance(measured, LatentDiffusion)
    assert float(measured.autoencoder.latent_scale) == 0.25


def test_safetensors_and_lone_autoencoders_are_read(tmp_path: Path) -> None:
    _, config = write_checkpoint(tmp_path, TINY_FIRST_STAGE, {})
    save_file(random_state(TINY_FIRST_STAGE, "") | {"loss.logvar": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert isinstance(compvis.read(tmp_path / "model.safetensors", config), Autoencoder)


def test_averages_are_found_under_their_names_without_dots(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    name = "model.diffusion_model."
    averages = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): tensor + 1
        for key, tensor in state.items()
        if key.startswith(name)
    }
    paths = write_checkpoint(tmp_path, config, state | averages | {"model_ema.decay": torch.tensor(0.9999)})
    average, raw = (compvis.read(*paths, weights=weights) for weights in (None, "raw"))
    assert isinstance(average, LatentDiffusion)
    assert isinstance(raw, LatentDiffusion)
    for ours, other in zip(average.unet.parameters(), raw.unet.parameters(), strict=True):
        torch.testing.assert_close(ours, other + 1)
    del averages["model_ema.diffusion_modelout0weight"]
    with pytest.raises(compvis.CompVisError, match=r"Keys missing: model_ema\.diffusion_modelout0weight"):
        compvis.read(*write_checkpoint(tmp_path, config, state | averages))
    with pytest.raises(compvis.CompVisError, match=r"weights: the file has no averaged \(ema\) weights; choose raw"):
        compvis.read(*write_checkpoint(tmp_path, config, state), weights="ema")


def test_averages_of_a_lone_autoencoder_are_read(tmp_path: Path) -> None:
    raw = random_state(TINY_FIRST_STAGE, "")
    averages = {"model_ema." + key.replace(".", ""): tensor + 1 for key, tensor in raw.items()}
    both = raw | averages | {"model_ema.num_updates": torch.tensor(3), "colorize": torch.zeros(3, 9, 1, 1)}
    paths = write_checkpoint(tmp_path, TINY_FIRST_STAGE, both)
    average, plain = compvis.read(*paths), compvis.read(*paths, weights="raw")
    for ours, other in zip(average.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, other + 1)
    with pytest.raises(compvis.CompVisError, match=r"weights: the file has no averaged \(ema\) weights; choose raw"):
        compvis.read(*write_checkpoint(tmp_path, TINY_FIRST_STAGE, raw), weights="ema")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            change_config("beta_schedule", "quadratic"),
            "model.params: beta_schedule: 'quadratic' cannot be read; permitted",
        ),
        (change_config("parameterization", "mu"), "parameterization: 'mu' cannot be read; permitted: eps, x0, v"),
        (change_config("unet_config.params.out_channels", 4), "of another shape: out.2.weight"),
        (change_config("unet_config.params.num_res_blocks", 2), "missing: input_blocks.2"),
        (change_config("unet_config.params.model_channels", 48), "channels: 48 is not a multiple of 32"),
        (change_config("first_stage_config.params.ddconfig.ch_mult", [1, 2]), "of another shape: "),
        (change_config("cond_stage_config", "__is_first_stage__"), "first stage with conditioning_key concat and 0"),
        (change_config("cosine_s", 0.01), "model.params: cosine_s: 0.01 cannot be read; permitted: 0.008"),
        (
            change_config("linear_start", "a lot"),
            "model.params: linear_start: 'a lot' cannot be read; permitted: a number",
        ),
        (change_config("unet_config.params.num_classes", 7), "num_classes: 7, but label_emb.weight is missing"),
        (change_config("unet_config", 3), "target: 3 cannot be read"),
        (
            change_config("unet_config.params.in_channels", -1),
            "in_channels: -1 cannot be read; permitted: positive integers",
        ),
        (change_config("unet_config.params.num_heads", None), "num_heads: missing"),
        (change_config("first_stage_config.params.ddconfig", [1]), "AutoencoderKL: params: [1] are not parameters"),
        (change_config("first_stage_config.params.embed_dim", True), "embed_dim: True cannot be read"),
        (change_config("timesteps", float("inf")), "timesteps: inf cannot be read; permitted: a number"),
        (
            change_config("cond_stage_key", "../key"),
            "cond_stage_key: '../key' cannot be read; permitted: letters, digits",
        ),
        (
            change_config("cond_stage_config", {"target": "FrozenT5Embedder"}),
            "FrozenT5Embedder cannot be read; permitted",
        ),
        (change_config("unet_config.params", "none"), "UNetModel: params: 'none' are not parameters"),
        (
            change_config("unet_config", {"target": "UNetModel", "params": {"num_heads": 1}}),
            "params: in_channels is missing",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_parameter(
    tmp_path: Path, parts: Any, changed: Any, message: str
) -> None:
    config, state = parts
    with pytest.raises(compvis.CompVisError) as caught:
        compvis.read(*write_checkpoint(tmp_path, changed(config), state))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_keys_are_listed(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    with pytest.raises(compvis.CompVisError, match=r"Keys unexpected: other\.weight"):
        compvis.read(*write_checkpoint(tmp_path, config, state | {"other.weight": torch.ones(1)}))
    with pytest.raises(compvis.CompVisError, match=r"unconditional, but the file has cond_stage_model\.weight"):
        compvis.read(*write_checkpoint(tmp_path, config, state | {"cond_stage_model.weight": torch.ones(1)}))


def test_numbers_that_yaml_reads_as_strings_are_accepted(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    model = compvis.read(*write_checkpoint(tmp_path, change_config("linear_start", "1e-4")(config), state))
    assert isinstance(model, LatentDiffusion)
    assert model.diffusion.config.beta_start == 1e-4


@pytest.mark.parametrize("target", ["LatentDiffusion", "DDPM"])
def test_a_pixel_space_model_is_read(tmp_path: Path, parts: Any, target: str) -> None:
    """Without a first stage, or with the identity as one, whose channels are those of the U-Net."""
    config, state = parts
    config["params"]["first_stage_config"] = {"target": "ldm.models.autoencoder.IdentityFirstStage"}
    if target == "DDPM":
        config = {"target": "ldm.models.diffusion.ddpm.DDPM", "params": config["params"]}
        del config["params"]["first_stage_config"], config["params"]["cond_stage_config"]
    config["params"]["scale_factor"] = 1.0
    state = {key: value for key, value in state.items() if not key.startswith("first_stage_model.")}
    model = compvis.read(*write_checkpoint(tmp_path, config, state))
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
