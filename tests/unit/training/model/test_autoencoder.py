"""First stages of every kind and factor."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.model.autoencoder import Autoencoder, AutoencoderConfig, Decoder
from training.model.quantiser import VectorQuantiser


def small(**fields: object) -> Autoencoder:
    torch.manual_seed(0)
    options: dict[str, object] = {"channels": 32, "multipliers": (1, 1), "res_blocks": 1, **fields}
    return Autoencoder(AutoencoderConfig(**options)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", range(1, 7))
@pytest.mark.parametrize("regularisation", ["kl", "vq"])
def test_every_factor_from_1_to_32(levels: int, regularisation: str) -> None:
    factor = 2 ** (levels - 1)
    model = small(multipliers=(1,) * levels, regularisation=regularisation, codebook_size=16, latent_channels=3)
    assert model.config.factor == factor
    images = torch.randn(1, 3, 2 * factor, factor)
    with torch.inference_mode():
        latents = model.encode(images)
        assert latents.shape == (1, 3, 2, 1)
        assert model.decode(latents).shape == images.shape


def test_vq_quantises_on_decoding_only() -> None:
    model = small(regularisation="vq", codebook_size=8, latent_channels=3, z_channels=4)
    model.latent_scale.fill_(2.0)
    images = torch.randn(2, 3, 8, 8)
    latents = model.encode(images)
    nearest = model.quantise(latents / 2).latents
    assert not torch.allclose(nearest, latents / 2)
    torch.testing.assert_close(model.decode(latents), model.decode(2 * nearest, quantise=False))
    mean, std = model.moments(images)
    torch.testing.assert_close(mean, latents)
    assert not std.any()
    with pytest.raises(ValueError, match="regularisation: vq has no posterior"):
        model.posterior(images)


def test_kl_has_moments_in_scaled_units_and_no_codebook() -> None:
    model, images = small(), torch.randn(2, 3, 8, 8)
    model.latent_scale.fill_(3.0)
    mean, std = model.moments(images)
    posterior = model.posterior(images)
    torch.testing.assert_close(mean, 3 * posterior.mean)
    torch.testing.assert_close(std, 3 * (posterior.logvar / 2).exp())
    with pytest.raises(ValueError, match="regularisation: kl has no codebook"):
        model.quantise(mean)


def test_inputs_that_do_not_fit_are_refused() -> None:
    model = small(latent_channels=4)
    with pytest.raises(ValueError, match=r"latents: shape \[1, 3, 4, 4\]; this autoencoder needs \[R, 4, h, w\]"):
        model.decode(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"images: shape \[3, 8, 8\]; permitted: \[R, 3, H, W\]"):
        model.encode(torch.zeros(3, 8, 8))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regularisation": "identity"}, "latent_channels: 4 is not allowed with the identity; permitted: 3"),
        ({"regularisation": "vqq"}, "regularisation: 'vqq' is not known; permitted: kl, vq, identity"),
        ({"attention_levels": (0, 3)}, "attention_levels: 3 is not allowed; permitted: 0 to 2"),
        ({"multipliers": ()}, "multipliers: none; permitted: one for each level, at least one"),
    ],
)
def test_invalid_configurations_are_refused_by_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderConfig(**fields)


@torch.inference_mode()
def test_a_large_latent_is_quantised_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, z = VectorQuantiser(8, 3), torch.randn(2, 3, 9, 9)
    whole = model(z)
    monkeypatch.setattr("training.model.quantiser.VECTORS_AT_ONCE", 10)
    assert torch.equal(model(z).indices, whole.indices)


def brute_force(z: Tensor, codebook: Tensor) -> Tensor:
    distance = (z.permute(0, 2, 3, 1)[..., None, :] - codebook).square().sum(-1)
    return distance.argmin(-1)


def test_the_nearest_entry_is_taken_and_the_gradient_goes_straight_through() -> None:
    torch.manual_seed(0)
    quantiser = VectorQuantiser(32, 3)
    torch.nn.init.normal_(quantiser.codebook.weight)
    z = torch.randn(2, 3, 4, 5, requires_grad=True)
    found = quantiser(z)
    expected = brute_force(z.detach(), quantiser.codebook.weight.detach())
    assert torch.equal(found.indices, expected)
    torch.testing.assert_close(found.latents, quantiser.codebook(expected).permute(0, 3, 1, 2))
    torch.testing.assert_close(quantiser.entries(found.indices), found.latents)
    (straight,) = torch.autograd.grad(found.latents.sum(), z, retain_graph=True)
    assert torch.equal(straight, torch.ones_like(z))
    nearest = quantiser.codebook(expected).permute(0, 3, 1, 2).detach()
    (pull,) = torch.autograd.grad(found.loss, z, retain_graph=True)
    torch.testing.assert_close(pull, 2 * (z - nearest).detach() / z.numel())
    (entries,) = torch.autograd.grad(found.loss, quantiser.codebook.weight)
    assert entries.abs().sum() > 0


@pytest.mark.parametrize("unknown", ["extra", "random", 1])
def test_a_remapped_codebook_changes_only_the_indices(unknown: str | int) -> None:
    torch.manual_seed(0)
    whole = VectorQuantiser(16, 3)
    torch.nn.init.normal_(whole.codebook.weight)
    z = torch.randn(1, 3, 16, 16)
    used = [11, 3, 7, 0]
    remapped = VectorQuantiser(16, 3, used=used, unknown=unknown)
    remapped.codebook.load_state_dict(whole.codebook.state_dict())
    full, few = whole(z), remapped(z)
    assert torch.equal(full.latents, few.latents)
    for index, number in zip(full.indices.flatten().tolist(), few.indices.flatten().tolist(), strict=True):
        if index in used:
            assert used[number] == index
        elif unknown == "random":
            assert 0 <= number < 4
        else:
            assert number == (4 if unknown == "extra" else 1)
    known = torch.isin(full.indices, torch.tensor(used))
    entries = remapped.entries(few.indices).permute(0, 2, 3, 1)[known]
    torch.testing.assert_close(entries, few.latents.permute(0, 2, 3, 1)[known])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "codebook_size: 0 is not allowed"),
        ({"used": [1, 1]}, "codebook_used: permitted: different numbers from 0 to 7"),
        ({"used": [8]}, "codebook_used: permitted: different numbers from 0 to 7"),
        ({"unknown": "none"}, "codebook_unknown: 'none' is not allowed"),
    ],
)
def test_invalid_codebooks_are_refused_by_field(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorQuantiser(**{"size": 8, "channels": 3, **options})  # type: ignore[arg-type]


def test_the_codebook_is_searched_in_float32_under_autocast() -> None:
    """In bf16 a third of the entries found is not the nearest."""
    torch.manual_seed(0)
    quantiser = VectorQuantiser(8192, 3)
    nn.init.normal_(quantiser.codebook.weight)
    z = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = quantiser(z).indices
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(quantiser(z).indices, expected)


def test_an_encoder_without_blocks_cannot_change_the_channels() -> None:
    config = AutoencoderConfig(channels=32, multipliers=(1, 2), res_blocks=0)
    with pytest.raises(ValueError, match=r"res_blocks: 0 is not allowed with the multipliers \[1, 2\]; permitted: at"):
        Autoencoder(config)
    Autoencoder(AutoencoderConfig(channels=32, multipliers=(1, 1), res_blocks=0))
    Decoder(config)  # which has one block more
