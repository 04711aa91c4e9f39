import pytest
import torch

from training.model import conditioners
from training.model.autoencoder import Autoencoder, AutoencoderConfig, Posterior
from training.model.latent_diffusion import LatentDiffusion
from training.model.layers import group_norm
from training.model.unet import UNet, UNetConfig


def test_encode_and_decode_are_in_scaled_units(autoencoder: Autoencoder) -> None:
    images = torch.rand(2, 1, 16, 8) * 2 - 1
    unscaled = autoencoder.encode(images)
    assert unscaled.shape == (2, 2, 8, 4)
    decoded = autoencoder.decode(unscaled)
    assert decoded.shape == images.shape
    autoencoder.latent_scale.fill_(3.0)
    torch.testing.assert_close(autoencoder.encode(images), unscaled * 3)
    torch.testing.assert_close(autoencoder.decode(unscaled * 3), decoded)


def test_images_that_do_not_fit_are_refused(autoencoder: Autoencoder) -> None:
    with pytest.raises(ValueError, match="images: 3 channels; this autoencoder takes 1"):
        autoencoder.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="images: 16x15 pixels; both sides must be multiples of 2"):
        autoencoder.encode(torch.zeros(1, 1, 16, 15))


def test_kl_is_that_of_two_gaussians() -> None:
    mean, logvar = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    ours = Posterior(torch.cat([mean, logvar], dim=1)).kl()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (0.5 * logvar).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(ours, expected.flatten(1).sum(1))


def test_group_norm_needs_a_multiple_of_32() -> None:
    with pytest.raises(ValueError, match="channels: 48 is not a multiple of 32"):
        group_norm(48, 1e-6)


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("resample_in_blocks", [False, True])
def test_unet_keeps_the_shape(scale_shift: bool, resample_in_blocks: bool) -> None:
    config = UNetConfig(
        in_channels=3, out_channels=2, channels=32, multipliers=(1, 2), res_blocks=2, attention_factors=(2,),
        scale_shift=scale_shift, resample_in_blocks=resample_in_blocks,
    )  # fmt: skip
    unet = UNet(config)
    assert unet(torch.randn(2, 3, 8, 4), torch.tensor([3, 900])).shape == (2, 2, 8, 4)


@pytest.mark.parametrize(
    ("x", "context", "told"),
    [
        ((1, 3, 8, 8), (1, 1, 16), "x: 3 channels; this U-Net takes 2"),
        ((1, 2, 7, 8), (1, 1, 16), "x: 7x8 latent; both sides must be multiples of 2"),
        ((1, 2, 8, 8), None, "context: this U-Net takes a context"),
        ((1, 2, 8, 8), (1, 1, 8), "context: width 8; this U-Net takes 16"),
    ],
)
def test_unet_names_what_does_not_fit(x: tuple[int, ...], context: tuple[int, ...] | None, told: str) -> None:
    unet = UNet(UNetConfig(in_channels=2, out_channels=2, channels=32, multipliers=(1, 1), context_width=16))
    with pytest.raises(ValueError, match=told):
        unet(torch.zeros(x), torch.zeros(1), None if context is None else torch.zeros(context))


def test_context_and_timestep_matter_row_by_row(latent_diffusion: LatentDiffusion) -> None:
    x, t = torch.randn(1, 2, 8, 8).expand(3, -1, -1, -1), torch.tensor([100, 100, 800])
    context = latent_diffusion.context([{"class_label": 0}, None, {"class_label": 0}])
    with torch.inference_mode():
        a, null, late = latent_diffusion.denoise(x, t, context)
    assert not torch.allclose(a, null)
    assert not torch.allclose(a, late)


def test_class_conditioner_keeps_a_row_for_no_condition() -> None:
    conditioner = conditioners.ClassConditioner(4, 8)
    assert conditioner.indices([0, None, 3]).tolist() == [0, 4, 3]
    assert conditioner(conditioner.indices([0, None])).shape == (2, 1, 8)
    assert conditioner.schema() == {"type": "integer", "minimum": 0, "maximum": 3}


def test_an_unknown_conditioner_is_named() -> None:
    with pytest.raises(ValueError, match="conditioner type: 'smell' is not known; permitted: class"):
        conditioners.build({"type": "smell"})


def test_images_do_not_depend_on_their_companions(latent_diffusion: LatentDiffusion) -> None:
    requests = [{"class_label": k} for k in range(3)]

    def generate(rows: list[int]) -> torch.Tensor:
        return latent_diffusion.generate(
            [requests[k] for k in rows], [10 + k for k in rows], latent_shape=(2, 8, 8), steps=3, solver="ddpm",
            guidance_scale=2.0,
        )  # fmt: skip

    together = generate([0, 1, 2])
    assert together.shape == (3, 1, 16, 16)
    assert float(together.abs().max()) <= 1
    torch.testing.assert_close(together[1:2], generate([1]), rtol=0, atol=1e-4)
    assert not torch.allclose(together[0], together[1])


def test_an_unknown_solver_is_named(latent_diffusion: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="solver: 'magic' is not known; permitted: ddim, ddpm, dpm_solver_2m"):
        latent_diffusion.trajectory("magic", 10)


def test_config_factor_is_image_over_latent() -> None:
    assert AutoencoderConfig(multipliers=(1, 2, 4, 4)).factor == 8
