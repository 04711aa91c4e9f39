"""A light decoder, and releases that have one."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.model import light_release, release, tiling
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.interop import huggingface
from training.model.interop.compvis import writing
from training.model.latent_diffusion import (
    LIGHT_DECODER_FILE,
    LatentDiffusion,
    load_autoencoder,
    load_diffusion,
    save_autoencoder,
    save_diffusion,
)
from training.model.light_decoder import (
    LightDecoder,
    LightDecoderConfig,
    count_light,
    count_operations,
    count_own,
    widest,
)
from training.model.release import LIGHT_DECODER

OWN = AutoencoderConfig(latent_channels=4, channels=32, multipliers=(1, 2))


def make_light(own: AutoencoderConfig) -> LightDecoder:
    torch.manual_seed(1)
    return LightDecoder(LightDecoderConfig(8, own.multipliers), own).eval()


def layer_operations(network: nn.Module, latents: Tensor) -> int:
    """Multiply-adds of the convolutions, by the sizes of what they read and write."""
    counts: list[int] = []

    def count(module: nn.Module, given: tuple[Tensor], answer: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        counts.append(answer.numel() * module.in_channels * math.prod(module.kernel_size))

    hooks = [one.register_forward_hook(count) for one in network.modules() if isinstance(one, nn.Conv2d)]
    network(latents)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def test_operations_are_those_of_the_layers() -> None:
    own = replace(OWN, middle_attention=False, channels=32, multipliers=(1, 1))
    autoencoder, light = Autoencoder(own), make_light(own)
    latents = torch.zeros(1, 4, 6, 4)
    assert count_operations(light, 6, 4) == layer_operations(light.decoder, latents)
    network = nn.Sequential(autoencoder.post_quant_conv, autoencoder.decoder)
    assert count_operations(autoencoder, 6, 4) == layer_operations(network, latents)
    assert count_own(replace(own, regularisation="vq"), 6, 4) == count_own(own, 6, 4)


def test_the_widest_decoder_within_a_share_is_found() -> None:
    found = widest(LightDecoderConfig(OWN.channels, OWN.multipliers), OWN, 1 / 8)
    most = count_own(OWN, 16, 16) / 8
    assert (
        count_light(found, OWN, 16, 16) <= most < count_light(replace(found, channels=found.channels + 4), OWN, 16, 16)
    )
    assert widest(found, OWN, 1.0).channels == OWN.channels
    with pytest.raises(ValueError, match="share: 1e-06 is too little for 4 channels; permitted: more"):
        widest(found, OWN, 1e-6)


@pytest.mark.parametrize(
    ("light", "own", "message"),
    [
        (LightDecoderConfig(8, (1,)), OWN, "multipliers: 1 levels; permitted: 2, as the autoencoder"),
        (LightDecoderConfig(6, (1, 2)), OWN, "channels: 6 is not allowed; permitted: multiples of 4"),
        (
            LightDecoderConfig(8, (1, 2)),
            replace(OWN, latent_channels=3, regularisation="identity"),
            "autoencoder: its latents are the pixels",
        ),
    ],
    ids=["levels", "channels", "identity"],
)
def test_a_decoder_that_does_not_fit_is_refused(
    light: LightDecoderConfig, own: AutoencoderConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LightDecoder(light, own)


@torch.inference_mode()
def test_half_precision_stays_inside() -> None:
    light, latents = make_light(OWN), torch.randn(2, 4, 5, 3)
    whole = light.decode(latents)
    assert whole.shape == (2, 3, 10, 6)
    half = light.to(torch.bfloat16).decode(latents)
    assert half.dtype == torch.float32
    assert float((half - whole).abs().max()) < 0.1


@torch.inference_mode()
def test_tiles_leave_no_seam() -> None:
    """Across the middle of an overlap, an image of tiles is as smooth as that of the whole."""
    light = make_light(OWN)
    latents = torch.randn(1, 4, 80, 16)
    whole, tiled = light.decode(latents), tiling.decode(light, latents, tile=48, overlap=16)
    error = (tiled - whole)[0].abs().amax((0, 2))
    assert float(error.max()) < 0.1 * float(whole.std())
    jumps = (tiled - whole)[0].diff(dim=1).abs().amax((0, 2))
    assert float(jumps.max()) < 0.05 * float(whole.std())


# -- releases --------------------------------------------------------------------------------------


@pytest.fixture
def folder(latent_diffusion: LatentDiffusion, tmp_path: Path) -> Path:
    save_diffusion(tmp_path / "made", latent_diffusion, name="bars", image_size=16, lineage={"data": "bars"})
    return tmp_path / "made"


def scored(loss: float) -> dict[str, float]:
    return {"psnr_loss": loss, "operations_ratio": 9.0}


def test_a_release_gets_a_light_decoder_and_keeps_the_rest(folder: Path, latent_diffusion: LatentDiffusion) -> None:
    before = release.read(folder)
    light = make_light(latent_diffusion.autoencoder.config)
    made = light_release.add(folder, light, before, {"teacher": before.digest})
    assert before.digest != made.digest
    assert made.lineage == {"data": "bars", LIGHT_DECODER: {"teacher": before.digest}}
    assert {name: record for name, record in made.files.items() if name != LIGHT_DECODER_FILE} == before.files
    model, found = load_diffusion(folder)
    assert found == made
    assert list(model.decoders) == ["full", "light"]
    latents = torch.randn(1, 2, 8, 8)
    assert torch.equal(model.decoders["light"].decode(latents), light.decode(latents))
    assert torch.equal(model.decoders["full"].decode(latents), latent_diffusion.autoencoder.decode(latents))
    assert list(latent_diffusion.decoders) == ["full"]
    copied = save_diffusion(folder.parent / "copy", model, name="bars", image_size=16)
    assert copied.files[LIGHT_DECODER_FILE] == made.files[LIGHT_DECODER_FILE]


def test_other_weights_of_a_light_decoder_are_another_release(folder: Path) -> None:
    before, digests = release.read(folder), set()
    for scale in (1.0, 2.0):
        light = make_light(AutoencoderConfig(**before.architecture["autoencoder"]))
        with torch.no_grad():
            light.decoder.last_layer.mul_(scale)
        digests.add(light_release.add(folder, light, before, {}).digest)
    assert len(digests) == 2


@pytest.mark.parametrize(("loss", "default"), [(0.3, "light"), (-1.0, "light"), (0.31, "full")])
def test_the_default_follows_from_the_evaluation(loss: float, default: str, folder: Path) -> None:
    before = release.read(folder)
    made = light_release.add(folder, make_light(AutoencoderConfig(**before.architecture["autoencoder"])), before, {})
    assert made.sampling == {"decoder": "full"}
    found = light_release.write_scores(folder, scored(loss))
    assert found.sampling == {"decoder": default}
    assert release.read(folder).metrics[LIGHT_DECODER] == scored(loss)


def test_a_first_stage_has_one_too_and_passes_it_on(latent_diffusion: LatentDiffusion, tmp_path: Path) -> None:
    save_autoencoder(tmp_path / "first", latent_diffusion.autoencoder, name="first", image_size=16)
    before = release.read(tmp_path / "first")
    assert light_release.load(tmp_path / "first", before) is None
    light_release.add(tmp_path / "first", make_light(latent_diffusion.autoencoder.config), before, {"name": "first"})
    first = light_release.write_scores(tmp_path / "first", scored(0.1))
    assert first.sampling == {}
    assert load_autoencoder(tmp_path / "first")[1] == first
    latent_diffusion.light_decoder = light_release.load(tmp_path / "first", first)
    made = save_diffusion(tmp_path / "second", latent_diffusion, name="second", image_size=16)
    carried = light_release.carry(tmp_path / "second", made, first)
    assert carried == release.read(tmp_path / "second")
    assert carried.sampling == {"decoder": "light"}
    assert carried.lineage[LIGHT_DECODER] == {"name": "first"}
    assert carried.metrics[LIGHT_DECODER] == scored(0.1)


def test_other_programs_get_the_own_decoder(folder: Path) -> None:
    before = release.read(folder)
    huggingface.export(folder, folder.parent / "before")
    light_release.add(folder, make_light(AutoencoderConfig(**before.architecture["autoencoder"])), before, {})
    huggingface.export(folder, folder.parent / "after")
    writing.export(folder, folder.parent / "compvis")
    for path in (folder.parent / "before").rglob("*.safetensors"):
        assert (folder.parent / "after" / path.relative_to(folder.parent / "before")).read_bytes() == path.read_bytes()
    names = {path.name for root in ("after", "compvis") for path in (folder.parent / root).rglob("*")}
    assert not any("light" in name for name in names)
