"""The patch discriminator of the autoencoder's adversarial loss (Isola et al. 2017; Esser et al. 2021)."""

import torch
from torch import Tensor, nn

SMALLEST_PATCHES = 3  # a side before the last two convolutions, which reduce it to a single patch


def smallest_image(layers: int) -> int:
    """Return the shortest side in pixels of images that a discriminator of so many layers can judge."""
    return SMALLEST_PATCHES << layers


class PatchDiscriminator(nn.Sequential):
    """Classifies patches: [R, C, H, W] in [-1, 1] -> logits [R, 1, h, w], positive for real."""

    def __init__(self, image_channels: int = 3, channels: int = 64, layers: int = 3) -> None:
        modules: list[nn.Module] = [nn.Conv2d(image_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for i in range(1, layers + 1):
            wider = channels * min(2**i, 8)
            stride = 2 if i < layers else 1
            modules += [
                nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        modules.append(nn.Conv2d(width, 1, 4, padding=1))
        super().__init__(*modules)
        self.apply(_initialise)


def _initialise(module: nn.Module) -> None:
    """Initialise as pix2pix: N(0, 0.02), and N(1, 0.02) for norms."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's hinge loss (Lim & Ye 2017): logits -> scalar."""
    return 0.5 * (torch.relu(1.0 - real).mean() + torch.relu(1.0 + fake).mean())
