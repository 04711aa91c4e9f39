"""A small classifier of the images of one set, whose features are compared when no pretrained network is given.

Features of a network of another domain say little about drawn digits, and 2048 of them need thousands of images.
This classifier has 64, and is trained on the set's training images alone.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from math import cos, pi, radians
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import ConfigDict, TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Generator, Tensor, nn

from training.data.image_set import DataError, ImageSet
from training.errors import summarise
from training.metrics import targets
from training.metrics.targets import Targets

FEATURES = 64
BATCH = 64
STEPS, LEARNING_RATE, WARM_UP = 500, 3e-3, 50
TURN, SHIFT, ZOOM = 10.0, 0.06, 0.1  # largest changes of a training image: degrees; share of a side; share
METADATA = "classifier"  # the only key of the file's metadata; the order of several would vary


@dataclass(frozen=True)
class About:
    """What a classifier was trained on, and its accuracy."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    images: str  # the set's name
    fingerprint: str  # the set's
    channels: int
    image_size: int
    targets: Targets
    seed: int
    steps: int
    accuracy: float  # on held-out images
    chance: float  # accuracy of the most frequent answer, there


class Classifier(nn.Module):
    """A `FeatureNetwork` for images of one set: convolutions of stride 2 down to 4x4, a mean, a linear layer."""

    def __init__(self, about: About) -> None:
        super().__init__()
        self.about = about
        layers: list[nn.Module] = []
        channels, width, size = about.channels, 32, about.image_size
        while size > 4:
            layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
            channels, width, size = width, min(2 * width, 128), (size + 1) // 2
        layers += [nn.Conv2d(channels, FEATURES, 3, 1, 1), nn.GroupNorm(8, FEATURES), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, len(about.targets.names))

    @property
    def name(self) -> str:
        """See `FeatureNetwork`."""
        return f"{self.about.images}-CNN features"

    @property
    def digest(self) -> str:
        """sha256 of the description and the weights."""
        digest = hashlib.sha256(json.dumps(asdict(self.about), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def forward(self, x: Tensor) -> Tensor:
        """Map [R, C, S, S] in [-1, 1] to the outputs before softmax or sigmoid, [R, K]."""
        return torch.as_tensor(self.head(self.pool(x)))

    def pool(self, x: Tensor) -> Tensor:
        """Map [R, C, S, S] to the last layer's input, [R, FEATURES]."""
        return torch.as_tensor(self.body(x)).mean((2, 3))

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """See `FeatureNetwork`."""
        shape = (self.about.channels, self.about.image_size, self.about.image_size)
        if images.shape[1:] != shape:
            raise ValueError(f"images: {tuple(images.shape[1:])}; {self.name} need {shape}")
        return torch.cat([self.pool(batch.to(self.head.weight)).cpu() for batch in torch.split(images, BATCH)])

    @torch.inference_mode()
    def outputs(self, images: Tensor) -> Tensor:
        """Return the outputs before softmax or sigmoid: [R, K] on the CPU."""
        return torch.as_tensor(self.head(self.features(images).to(self.head.weight))).cpu()

    def predict(self, images: Tensor) -> Tensor:
        """Return the most likely label of each image [R, C, S, S]: [R] int64. Only for label targets."""
        return self.outputs(images).argmax(1)

    @torch.inference_mode()
    def probabilities(self, features: Tensor) -> Tensor | None:
        """See `FeatureNetwork`. Only labels are mutually exclusive."""
        if self.about.targets.kind != "label":
            return None
        return torch.as_tensor(self.head(features.to(self.head.weight))).softmax(1).cpu()


def train(images: ImageSet, wanted: Targets | None = None, *, seed: int = 0, steps: int = STEPS) -> Classifier:
    """Train a classifier on the set's training images. Deterministic for a seed, a machine and a number of threads.

    wanted: the targets; None chooses them by `targets.choose`. Images without a label do not count for labels. Raises
    DataError if no image is held out to measure the accuracy.
    """
    if not images.rows("held_out"):
        raise DataError("data.root: no image is held out; prepare the set with data.held_out above 0")
    name, fingerprint = images.description.name, images.description.fingerprint
    wanted = targets.choose(images) if wanted is None else wanted
    known, held_out = (torch.tensor(wanted.rows(images, split)) for split in ("train", "held_out"))
    about = About(name, fingerprint, images.channels, images.image_size, wanted, seed, steps, 0.0, 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(about)
    draws = Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(classifier.parameters(), LEARNING_RATE, weight_decay=0.05)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min((step + 1) / WARM_UP, (1 + cos(pi * step / steps)) / 2)
        rows = known[torch.randint(len(known), (BATCH,), generator=draws)]
        pixels, answers = targets.examples(wanted, images, rows, draws)
        loss = wanted.loss(classifier(augment(pixels, draws)), answers)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    classifier.requires_grad_(False).eval()
    accuracy, chance = held_out_accuracy(classifier, images, held_out)
    classifier.about = replace(about, accuracy=accuracy, chance=chance)
    return classifier


def held_out_accuracy(classifier: Classifier, images: ImageSet, rows: Tensor) -> tuple[float, float]:
    """Return the fields `accuracy` and `chance` of `About`."""
    wanted, draws = classifier.about.targets, Generator().manual_seed(0)
    parts = [targets.examples(wanted, images, part, draws) for part in torch.split(rows, BATCH)]
    outputs = torch.cat([classifier.outputs(pixels) for pixels, _ in parts])
    answers = torch.cat([part for _, part in parts])
    return wanted.accuracy(outputs, answers), wanted.chance(answers)


def augment(images: Tensor, generator: Generator) -> Tensor:
    """Rotate, shift and zoom each image a little at random; edge pixels are repeated beyond the border."""
    turn, zoom, right, down = 2 * torch.rand(4, len(images), generator=generator) - 1
    angle, scale = radians(TURN) * turn, 1 + ZOOM * zoom
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(-1, 2, 2)
    shift = 2 * SHIFT * torch.stack([right, down], 1)  # of [-1, 1]
    theta = torch.cat([rotation * scale[:, None, None], shift[:, :, None]], 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


# -- its file ------------------------------------------------------------------------------------


def save(classifier: Classifier, path: Path) -> None:
    """Write a classifier as safetensors, with its description in the metadata."""
    metadata = json.dumps({**asdict(classifier.about), "digest": classifier.digest}, sort_keys=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.torch.save(tensors, {METADATA: metadata}))


def load(path: Path, field: str = "classifier") -> Classifier:
    """Read a classifier. Raises ValueError that starts with `field` for a missing, foreign or damaged file."""
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})[METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = metadata.pop("digest")
        classifier = Classifier(TypeAdapter(About).validate_python(metadata))
        classifier.load_state_dict(tensors)
    except OSError as error:
        raise ValueError(f"{field}: {path} cannot be read ({error.strerror or error}); train one") from None
    except (SafetensorError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{field}: {path} is not a classifier ({summarise(error)}); train one") from None
    if classifier.digest != digest:
        raise ValueError(f"{field}: {path} is damaged: its sha256 differs from the recorded one; train it again")
    return classifier.requires_grad_(False).eval()
