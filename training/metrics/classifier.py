"""A small network that learns to see the images of one set: for figures where no pretrained network has a view.

Features of a network of another domain say little about drawn digits, and 2048 of them need thousands of images.
These are 64, of a classifier trained on the set's training images; no generated image has a part in it.
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
from training.metrics import targets
from training.metrics.targets import Targets

FEATURES = 64
BATCH = 64
STEPS, LEARNING_RATE, WARM_UP = 500, 3e-3, 50
TURN, SHIFT, ZOOM = 10.0, 0.06, 0.1  # largest changes of a training image: degrees; share of a side; share
METADATA = "classifier"  # the only key of the file's metadata; its order would be another every time


@dataclass(frozen=True)
class About:
    """What a classifier learned, and how well."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    images: str  # the set's name
    fingerprint: str  # the set's
    channels: int
    image_size: int
    targets: Targets
    seed: int
    steps: int
    accuracy: float  # on held-out images
    chance: float  # what always giving the most frequent answer would reach there


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
        """sha256 of what it learned and its weights."""
        digest = hashlib.sha256(json.dumps(asdict(self.about), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def forward(self, x: Tensor) -> Tensor:
        """[R, C, S, S] in [-1, 1] -> the outputs before softmax or sigmoid, [R, K]."""
        return torch.as_tensor(self.head(self.pooled(x)))

    def pooled(self, x: Tensor) -> Tensor:
        """[R, C, S, S] -> the last layer's input, [R, FEATURES]."""
        return torch.as_tensor(self.body(x)).mean((2, 3))

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """See `FeatureNetwork`."""
        shape = (self.about.channels, self.about.image_size, self.about.image_size)
        if images.shape[1:] != shape:
            raise ValueError(f"images: {tuple(images.shape[1:])}; {self.name} are of {shape}")
        return torch.cat([self.pooled(batch.to(self.head.weight)).cpu() for batch in torch.split(images, BATCH)])

    @torch.inference_mode()
    def outputs(self, images: Tensor) -> Tensor:
        """For each image and target, before softmax or sigmoid: [R, K] on the CPU."""
        return torch.as_tensor(self.head(self.features(images).to(self.head.weight))).cpu()

    def predict(self, images: Tensor) -> Tensor:
        """The most likely label of each image [R, C, S, S]: [R] int64; for one that learned labels."""
        return self.outputs(images).argmax(1)

    @torch.inference_mode()
    def probabilities(self, features: Tensor) -> Tensor | None:
        """See `FeatureNetwork`; only labels are one of K things that an image may show."""
        if self.about.targets.kind != "label":
            return None
        return torch.as_tensor(self.head(features.to(self.head.weight))).softmax(1).cpu()


def train(images: ImageSet, wanted: Targets | None = None, *, seed: int = 0, steps: int = STEPS) -> Classifier:
    """A classifier of the set's training images: the same every time for a seed, on one machine and as many threads.

    wanted: what to tell them apart by; None takes what the set has, see `targets.of`. Raises DataError where no image
    is held out to measure its accuracy on.
    """
    held_out = torch.tensor(images.rows("held_out"))
    if not len(held_out):
        raise DataError("data.root: no image is held out; prepare the set with some to evaluate on")
    name, fingerprint = images.description.name, images.description.fingerprint
    wanted = targets.of(images) if wanted is None else wanted
    about = About(name, fingerprint, images.channels, images.image_size, wanted, seed, steps, 0.0, 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(about)
    draws = Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(classifier.parameters(), LEARNING_RATE, weight_decay=0.05)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min((step + 1) / WARM_UP, (1 + cos(pi * step / steps)) / 2)
        rows = torch.randint(len(images.rows("train")), (BATCH,), generator=draws)
        pixels, answers = targets.examples(wanted, images, rows, draws)
        loss = wanted.loss(classifier(moved(pixels, draws)), answers)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    classifier.requires_grad_(False).eval()
    accuracy, chance = held_out_accuracy(classifier, images, held_out)
    classifier.about = replace(about, accuracy=accuracy, chance=chance)
    return classifier


def held_out_accuracy(classifier: Classifier, images: ImageSet, rows: Tensor) -> tuple[float, float]:
    """The fields `accuracy` and `chance` of `About`."""
    wanted, draws = classifier.about.targets, Generator().manual_seed(0)
    parts = [targets.examples(wanted, images, part, draws) for part in torch.split(rows, BATCH)]
    outputs = torch.cat([classifier.outputs(pixels) for pixels, _ in parts])
    answers = torch.cat([part for _, part in parts])
    return wanted.accuracy(outputs, answers), wanted.chance(answers)


def moved(images: Tensor, generator: Generator) -> Tensor:
    """Each image turned, shifted and zoomed a little by chance; its edge goes on beyond its border."""
    turn, zoom, right, down = 2 * torch.rand(4, len(images), generator=generator) - 1
    angle, scale = radians(TURN) * turn, 1 + ZOOM * zoom
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(-1, 2, 2)
    shift = 2 * SHIFT * torch.stack([right, down], 1)  # of [-1, 1]
    theta = torch.cat([rotation * scale[:, None, None], shift[:, :, None]], 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


# -- its file ------------------------------------------------------------------------------------


def save(classifier: Classifier, path: Path) -> None:
    """Write it as safetensors; what it learned is in the metadata."""
    metadata = json.dumps({**asdict(classifier.about), "digest": classifier.digest}, sort_keys=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.torch.save(tensors, {METADATA: metadata}))


def load(path: Path, field: str = "classifier") -> Classifier:
    """Read what `save` wrote. Raises ValueError that begins with `field` for a missing, other or damaged file."""
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
        told = " ".join(str(error).split())[:200]
        raise ValueError(f"{field}: {path} is no classifier ({told}); train one") from None
    if classifier.digest != digest:
        raise ValueError(f"{field}: {path} was damaged: its content has another sha256 than it says; train it again")
    return classifier.requires_grad_(False).eval()
