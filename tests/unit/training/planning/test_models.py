"""The models that are chosen for pictures can be built, at every size and on every device."""

from dataclasses import replace

import pytest
import torch

from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.unet import UNet, UNetConfig
from training.planning import models
from training.planning.plan import Options, draft_experiments, load_both
from training.planning.survey import PlanError, Survey

FOUND = Survey(
    images=1000, complete=True, channels=3, side=64, small_side=64, same_size=True, classes={"boot": 500, "shoe": 500},
    labelled=1.0, captioned=1.0,
)  # fmt: skip
OPTIONS = Options("/pictures", "shoes", 40)


@pytest.mark.parametrize("size", [8, 9, 28, 48, 64, 128])
def test_a_unet_accepts_the_latents_of_every_size(size):
    first, second = draft_experiments(FOUND, OPTIONS, "class", size, "cpu")
    assert size % models.factor_of(size) == 0
    with torch.inference_mode(), torch.device("meta"):
        z = torch.zeros(1, first["model"]["latent_channels"], *2 * [size // models.factor_of(size)])
        tokens = torch.zeros(1, 2, models.CONTEXT)
        assert unet_of(second)(z, torch.zeros(1), tokens).shape == z.shape


@pytest.mark.parametrize(
    ("condition", "size", "device"), [("class", 16, "cpu"), ("caption", 64, "cpu"), ("none", 256, "cuda")]
)
def test_experiments_are_valid(condition, size, device):
    first, second = load_both(*draft_experiments(FOUND, OPTIONS, condition, size, device))
    assert first.model.factor == models.factor_of(size)
    assert (first.name, second.name) == ("shoes-autoencoder", "shoes")


def test_the_models_for_a_gpu_are_larger():
    def weights(device: models.Device) -> int:
        first, second = draft_experiments(FOUND, OPTIONS, "class", 64, device)
        with torch.device("meta"):
            networks = Autoencoder(AutoencoderConfig(**first["model"])), unet_of(second)
        return sum(weight.numel() for network in networks for weight in network.parameters())

    assert weights("cuda") > 3 * weights("cpu")


def unet_of(second):
    fields = second["model"]["unet"]
    return UNet(UNetConfig(**fields, out_channels=fields["in_channels"]))


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, [64, 32, 24, 16]),
        ({"side": 28, "small_side": 28}, [28]),
        ({"side": 30, "small_side": 30}, [28]),
        ({"side": 8, "small_side": 8}, [8]),
        ({"side": 500, "small_side": 400, "same_size": False}, [128, 96, 64, 48, 32, 24, 16]),
        ({"side": 500, "small_side": 20, "same_size": False}, [32, 24, 16]),
        ({"side": 12, "small_side": 11, "same_size": False}, [12]),
    ],
)
def test_sizes_are_no_larger_than_the_pictures(changes, sizes):
    assert models.candidate_sizes(replace(FOUND, **changes), "cpu") == sizes


@pytest.mark.parametrize("wanted", [4, 30, 66, 200])
def test_a_size_that_does_not_fit_is_refused(wanted):
    with pytest.raises(PlanError, match=f"--size: {wanted} is not allowed; permitted: 8 to 128 pixels, multiples of"):
        models.candidate_sizes(FOUND, "cpu", wanted)


def test_some_pictures_without_a_label_do_not_stop_the_training():
    found = replace(FOUND, labelled=0.9)
    _, second = load_both(*draft_experiments(found, OPTIONS, "class", 32, "cpu"))
    assert second.data.max_bad == 0.25
