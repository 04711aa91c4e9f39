import pytest
import torch

from training.model.autoencoder import Autoencoder, AutoencoderConfig, Posterior
from training.model.latent_diffusion import LatentDiffusion
from training.model.layers import concatenate, group_norm
from training.model.unet import UNet, UNetConfig, coordinates


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
    with pytest.raises(ValueError, match="images: 3 channels; this autoencoder needs 1"):
        autoencoder.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="images: 16x15 pixels; both sides must be multiples of 2"):
        autoencoder.encode(torch.zeros(1, 1, 16, 15))


def test_kl_equals_that_of_two_gaussians() -> None:
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
    ("x", "context", "message"),
    [
        ((1, 3, 8, 8), (1, 1, 16), "x: 3 channels; this U-Net needs 2"),
        ((1, 2, 7, 8), (1, 1, 16), "x: 7x8 latent; both sides must be multiples of 2"),
        ((1, 2, 8, 8), None, "context: this U-Net needs a context"),
        ((1, 2, 8, 8), (1, 1, 8), "context: width 8; this U-Net needs 16"),
    ],
)
def test_the_unet_names_inputs_that_do_not_fit(
    x: tuple[int, ...], context: tuple[int, ...] | None, message: str
) -> None:
    unet = UNet(UNetConfig(in_channels=2, out_channels=2, channels=32, multipliers=(1, 1), context_width=16))
    with pytest.raises(ValueError, match=message):
        unet(torch.zeros(x), torch.zeros(1), None if context is None else torch.zeros(context))


def test_context_and_timestep_affect_their_own_row(latent_diffusion: LatentDiffusion) -> None:
    x, t = torch.randn(1, 2, 8, 8).expand(3, -1, -1, -1), torch.tensor([100, 100, 800])
    with torch.inference_mode():
        conditions = latent_diffusion.conditions([{"class_label": 0}, None, {"class_label": 0}], (8, 8))
        a, null, late = latent_diffusion.denoise(x, t, conditions)
    assert not torch.allclose(a, null)
    assert not torch.allclose(a, late)


def cross_attention_unet() -> UNet:
    torch.manual_seed(0)
    unet = UNet(UNetConfig(in_channels=2, out_channels=2, channels=32, multipliers=(1, 2), res_blocks=1, heads=2,
                           attention_factors=(1, 2), context_width=16, transformer_depth=2))  # fmt: skip
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return unet


def test_precomputed_keys_and_values_give_the_same_result() -> None:
    unet, x, context = cross_attention_unet(), torch.randn(2, 2, 8, 8), torch.randn(2, 5, 16)
    t = torch.tensor([3, 700])
    kept = unet.keys_values(context)
    parts = kept.split(unet.widths, dim=2)
    layers = unet.cross_attentions()
    assert kept.shape == (2, 5, sum(2 * layer.width for layer in layers))
    for layer in layers:
        torch.testing.assert_close(parts[layer.index], torch.cat([layer.key(context), layer.value(context)], -1))
    assert torch.equal(unet(x, t, keys_values=kept), unet(x, t, context))


def test_gradient_checkpointing_changes_memory_and_nothing_else() -> None:
    unet, x, context = cross_attention_unet(), torch.randn(2, 2, 8, 8), torch.randn(2, 5, 16)
    t = torch.tensor([3, 700])
    saved: list[int] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    def gradients(checkpointing: bool) -> tuple[list[torch.Tensor], int]:
        unet.gradient_checkpointing = checkpointing
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            loss = unet(x, t, context).square().sum()
        held = sum(saved)
        return list(torch.autograd.grad(loss, list(unet.parameters()))), held

    (plain, much), (again, little) = gradients(False), gradients(True)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)
    assert little < much / 3


@torch.no_grad()
def test_a_unet_with_coordinates_distinguishes_positions() -> None:
    """Far from the padding a network without them answers an even input evenly, whatever its weights."""
    torch.manual_seed(0)
    even = torch.full((2, 4, 32, 48), 0.3)
    answers = {}
    for given in (False, True):
        unet = UNet(UNetConfig(channels=32, multipliers=(1,), res_blocks=1, attention_factors=(), coordinates=given))
        torch.nn.init.normal_(unet.get_parameter("conv_out.weight"), std=0.1)
        unet.get_submodule("middle.0").register_module("attention", None)  # it sees the padding from everywhere
        answers[given] = unet.eval()(even, torch.tensor([10, 10]))
        assert torch.equal(answers[given][0], answers[given][1])
    assert answers[False][0, :, 16, 16:32].std(dim=-1).max() < 1e-5
    assert answers[True][0, :, 16, 16:32].std(dim=-1).min() > 1e-3
    grid = coordinates(torch.zeros(1, 4, 2, 4))
    assert grid[0, 0].tolist() == [[-0.75, -0.25, 0.25, 0.75]] * 2, "across"
    assert grid[0, 1].tolist() == [[-0.5] * 4, [0.5] * 4], "down"


def test_a_release_names_later_fields_only_if_it_uses_them(latent_diffusion: LatentDiffusion) -> None:
    """So that older workers go on to read the releases that newer training makes."""
    architecture = latent_diffusion.architecture()
    assert "coordinates" not in architecture["unet"]
    architecture["unet"]["coordinates"] = True
    assert LatentDiffusion.build(architecture).architecture()["unet"]["coordinates"] is True


def test_an_embedding_is_added_to_that_of_the_timestep() -> None:
    unet, x, t, context = cross_attention_unet(), torch.randn(2, 2, 8, 8), torch.zeros(2), torch.randn(2, 5, 16)
    still = unet(x, t, context)
    assert torch.equal(unet(x, t, context, embedding=torch.zeros(2, 128)), still)
    moved = unet(x, t, context, embedding=torch.cat([torch.zeros(1, 128), torch.ones(1, 128)]))
    torch.testing.assert_close(moved[0], still[0])
    assert not torch.allclose(moved[1], still[1])
    with pytest.raises(ValueError, match="embedding: width 64; this U-Net needs 128"):
        unet(x, t, context, embedding=torch.zeros(2, 64))


def test_config_factor_is_image_over_latent() -> None:
    assert AutoencoderConfig(multipliers=(1, 2, 4, 4)).factor == 8


@pytest.mark.parametrize("mean", [0.0, 20.0])
def test_group_norm_by_channels_is_group_norm(mean: float) -> None:
    """A GPU computes it so, compiled."""
    torch.manual_seed(0)
    norm = group_norm(96, 1e-6)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x = (torch.randn(3, 96, 16, 16) + mean).to(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn(x.shape)
    inputs = (x, norm.weight, norm.bias)
    exact, found = norm(x), norm.by_channels(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=2e-3 if mean else 1e-5)
    pairs = zip(torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(exact, inputs, upstream), strict=True)
    for ours, theirs in pairs:
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()
    rounded = norm.by_channels(x.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert (rounded - norm(x.bfloat16().float())).norm() < 5e-3 * exact.norm()


def test_group_norm_keeps_maps_channels_last_where_that_of_torch_does_not() -> None:
    """As on a GPU: every convolution would copy its input."""
    norm, x = group_norm(64, 1e-6).to("meta"), torch.empty(2, 64, 8, 8, device="meta")
    x = x.contiguous(memory_format=torch.channels_last)
    assert not torch.nn.GroupNorm.forward(norm, x).is_contiguous(memory_format=torch.channels_last)
    assert norm(x).is_contiguous(memory_format=torch.channels_last)


def test_compiled_maps_are_joined_channels_last_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (torch.randn(2, channels, 4, 6) for channels in (3, 5))
    exact = concatenate(first, second)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = concatenate(first, second)
    assert torch.equal(found, exact)
    assert found.is_contiguous(memory_format=torch.channels_last)
