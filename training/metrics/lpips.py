"""Learned perceptual distance (Zhang et al. 2018, LPIPS v0.1) on VGG-16 features.

The weights are two published files: torchvision's VGG-16 (`features.N.weight`) and the linear heads
(`linN.model.1.weight`).
"""

import pickle

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.errors import summarise

# Output channels of VGG-16's convolutions; "M" is a 2x2 max pool (Simonyan & Zisserman 2015, table 1, D).
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
TAPS = (3, 8, 15, 22, 29)  # the last ReLU before each pool
TAP_CHANNELS = (64, 128, 256, 512, 512)


class LPIPS(nn.Module):
    """Distance between images in [-1, 1]: [R, 1 or 3, H, W] twice -> [R], 0 for equal images."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in VGG16:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.heads = nn.ParameterList(torch.zeros(1, width, 1, 1) for width in TAP_CHANNELS)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum over five depths of the mean squared difference of unit feature vectors, weighted by channel."""
        distance = torch.zeros(len(a), device=a.device, dtype=a.dtype)
        a, b = ((x.expand(-1, 3, -1, -1) - self.shift) / self.scale for x in (a, b))
        depth = 0
        for i, layer in enumerate(self.features):
            a, b = layer(a), layer(b)
            if i in TAPS:
                difference = (F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)).square()
                distance = distance + (difference * self.heads[depth]).sum(1).mean((1, 2))
                depth += 1
        return distance


def load(vgg: str | None, heads: str | None) -> LPIPS:
    """Load LPIPS with published weights, each a path, or a URL that is downloaded once into torch's hub folder.

    Raises FileNotFoundError or ValueError that says what is needed.
    """
    features = read_weights("loss.vgg_weights", vgg)
    linear = read_weights("loss.lpips_weights", heads)
    model = LPIPS()
    try:
        weights = {name: features[name] for name in model.state_dict() if name.startswith("features.")}
        weights |= {f"heads.{i}": linear[f"lin{i}.model.1.weight"] for i in range(len(TAP_CHANNELS))}
    except KeyError as error:
        raise ValueError(f"perceptual weights: {error} is missing in {vgg} or {heads}") from None
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"perceptual weights: of another shape: {summarise(error, 1000)}") from None
    return model.eval()


def read_weights(field: str, source: str | None) -> dict[str, Tensor]:
    """Read the tensors of a file or URL without running code from it.

    Raises FileNotFoundError or ValueError naming the field.
    """
    without = "or set loss.perceptual_weight=0"
    if source is None:
        raise FileNotFoundError(f"{field}: is not set; give the path or the URL of the published weights, {without}")
    try:
        if source.startswith(("http://", "https://")):
            return dict(torch.hub.load_state_dict_from_url(source, map_location="cpu", weights_only=True))
        return dict(torch.load(source, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{field}: {source} does not exist; give the path or the URL of the published weights, {without}"
        ) from None
    except OSError as error:
        raise FileNotFoundError(f"{field}: {source} cannot be read ({error}); give another, {without}") from None
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, TypeError) as error:
        raise ValueError(
            f"{field}: {source} is not a file of weights ({summarise(error)}); give another, {without}"
        ) from None
