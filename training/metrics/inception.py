"""Inception-v3 of 2015 (Szegedy et al. 2015, table 1), whose features published FID and KID compare.

The weights are one published file of the project torch-fidelity, named after the beginning of its sha256:
weights-inception-2015-12-05-6726825d.pth. They expect images of 0..255, resized like TensorFlow 1.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.errors import summarise
from training.model.pixels import to_bytes
from training.model.release import sha256_of

PUBLISHED = "6726825d"
SIDE = 299  # pixels, to which images are resized
BATCH = 32

# A path of a block: (channels, kernel) of each convolution in turn; a list holds two parallel ones.
Layer = tuple[int, tuple[int, int]]
Layers = Sequence[Layer | list[Layer]]


class Inception(nn.Module):
    """A `FeatureNetwork` of 2048 features; its probabilities are of the 1008 outputs without their bias."""

    def __init__(self, name: str = "Inception features", digest: str = "") -> None:
        super().__init__()
        self.name, self.digest = name, digest
        self.Conv2d_1a_3x3 = Convolution(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, (3, 3), padding=(0, 0))
        self.Conv2d_2b_3x3 = Convolution(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = Convolution(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = Convolution(80, 192, (3, 3), padding=(0, 0))
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_a(192, 32), block_a(256, 64), block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (block_c(w) for w in (128, 160, 160, 192))
        self.Mixed_7a = block_d(768)
        self.Mixed_7b, self.Mixed_7c = block_e(1280, "mean"), block_e(2048, "max")
        self.fc = nn.Linear(2048, 1008)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """[R, 3, H, W] of 0..255 -> [R, 2048]."""
        x = (resize(x, SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # [R, 64, 147, 147]
        x = F.max_pool2d(x, 3, 2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))  # [R, 192, 71, 71]
        x = F.max_pool2d(x, 3, 2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # [R, 288, 35, 35]
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # [R, 768, 17, 17]
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # [R, 2048, 8, 8]
        return x.mean((2, 3))

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """See `FeatureNetwork`; grey images count as equal red, green and blue."""
        parts = []
        for batch in torch.split(images, BATCH):
            pixels = torch.from_numpy(to_bytes(batch)).permute(0, 3, 1, 2).to(self.fc.weight)
            parts.append(self(pixels.expand(-1, 3, -1, -1)).cpu())
        return torch.cat(parts)

    def probabilities(self, features: Tensor) -> Tensor:
        """See `FeatureNetwork`."""
        return (features.to(self.fc.weight) @ self.fc.weight.T).softmax(1).cpu()


def load(path: Path, field: str = "inception") -> Inception:
    """Load the weights of a file without running code from it. Raises ValueError that starts with `field`."""
    needed = f"the published weights-inception-2015-12-05-{PUBLISHED}.pth is needed"
    try:
        weights = dict(torch.load(path, map_location="cpu", weights_only=True))
        digest = sha256_of(path)
    except OSError as error:
        raise ValueError(f"{field}: {path} cannot be read ({error.strerror}); {needed}") from None
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, TypeError) as error:
        raise ValueError(f"{field}: {path} is not a file of weights ({summarise(error)}); {needed}") from None
    known = digest.startswith(PUBLISHED)
    network = Inception("Inception features" if known else f"Inception features of {path.name}", digest)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{field}: {path} holds other weights ({summarise(error)}); {needed}") from None
    return network


def resize(x: Tensor, side: int) -> Tensor:
    """[R, C, H, W] -> [R, C, side, side], bilinear between pixel corners, like TensorFlow 1."""
    rows, columns = (interpolation(size, side).to(x) for size in x.shape[2:])
    return rows @ x @ columns.T


def interpolation(size: int, side: int) -> Tensor:
    """Return the matrix [side, size] that resamples `size` values to `side`: output i is at i size / side."""
    at = torch.arange(side) * (size / side)
    low = at.floor()
    weights = torch.zeros(side, size)
    output = torch.arange(side)
    weights[output, low.long()] = 1 - (at - low)
    weights[output, (low.long() + 1).clamp(max=size - 1)] += at - low
    return weights


# -- blocks, under the names of the file ---------------------------------------------------------


class Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU. With a stride there is no padding; else the size is kept."""

    def __init__(
        self, before: int, after: int, kernel: tuple[int, int], stride: int = 1, padding: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        if padding is None:
            padding = (kernel[0] // 2, kernel[1] // 2) if stride == 1 else (0, 0)
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[R, before, H, W] -> [R, after, H', W']."""
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Parallel paths whose outputs are concatenated; the last one has a pooled input.

    pool: "mean", "max", or "reduce", where the last layers of all paths have stride 2.
    """

    def __init__(self, before: int, paths: Mapping[str, Layers], pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.paths: list[list[list[str]]] = []  # path, step, convolutions side by side
        for path, layers in paths.items():
            channels, steps = before, []
            for i, layer in enumerate(layers):
                forks = layer if isinstance(layer, list) else [layer]
                step = path if len(layers) == 1 else f"{path}_{i + 1}"
                names = [step + letter for letter in "ab"] if len(forks) == 2 else [step]
                stride = 2 if pool == "reduce" and i == len(layers) - 1 else 1
                for name, (width, kernel) in zip(names, forks, strict=True):
                    self.add_module(name, Convolution(channels, width, kernel, stride))
                channels = sum(width for width, _ in forks)
                steps.append(names)
            self.paths.append(steps)

    def forward(self, x: Tensor) -> Tensor:
        """[R, before, H, W] -> [R, sum over the paths, H', W']."""
        match self.pool:
            case "mean":  # padding is not counted
                pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            case "max":
                pooled = F.max_pool2d(x, 3, 1, 1)
            case _:
                pooled = F.max_pool2d(x, 3, 2)
        outputs = []
        for steps in self.paths:
            y = pooled if steps == [["branch_pool"]] else x
            for names in steps:
                y = torch.cat([self.get_submodule(name)(y) for name in names], 1)
            outputs.append(y)
        return torch.cat(outputs if self.pool != "reduce" else [*outputs, pooled], 1)


ONE, THREE, FIVE, ROW, COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def block_a(before: int, pooled: int) -> Block:
    """Figure 5 of the paper, except for the 5x5 kernel."""
    paths: dict[str, Layers] = {
        "branch1x1": [(64, ONE)],
        "branch5x5": [(48, ONE), (64, FIVE)],
        "branch3x3dbl": [(64, ONE), (96, THREE), (96, THREE)],
        "branch_pool": [(pooled, ONE)],
    }
    return Block(before, paths, "mean")


def block_b(before: int) -> Block:
    """Halve the size."""
    paths: dict[str, Layers] = {
        "branch3x3": [(384, THREE)],
        "branch3x3dbl": [(64, ONE), (96, THREE), (96, THREE)],
    }
    return Block(before, paths, "reduce")


def block_c(w: int) -> Block:
    """Figure 6."""
    paths: dict[str, Layers] = {
        "branch1x1": [(192, ONE)],
        "branch7x7": [(w, ONE), (w, ROW), (192, COLUMN)],
        "branch7x7dbl": [(w, ONE), (w, COLUMN), (w, ROW), (w, COLUMN), (192, ROW)],
        "branch_pool": [(192, ONE)],
    }
    return Block(768, paths, "mean")


def block_d(before: int) -> Block:
    """Halve the size."""
    paths: dict[str, Layers] = {
        "branch3x3": [(192, ONE), (320, THREE)],
        "branch7x7x3": [(192, ONE), (192, ROW), (192, COLUMN), (192, THREE)],
    }
    return Block(before, paths, "reduce")


def block_e(before: int, pool: str) -> Block:
    """Figure 7. Max pooling in the last block is specific to these weights."""
    fork: list[Layer] = [(384, (1, 3)), (384, (3, 1))]
    paths: dict[str, Layers] = {
        "branch1x1": [(320, ONE)],
        "branch3x3": [(384, ONE), fork],
        "branch3x3dbl": [(448, ONE), (384, THREE), fork],
        "branch_pool": [(192, ONE)],
    }
    return Block(before, paths, pool)
