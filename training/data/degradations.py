"""Low-resolution inputs for training super-resolution (Rombach et al. 2022, section 4.4 and appendix D.6).

`bicubic` is Pillow's antialiased bicubic filter on every channel, the inputs of the paper's comparison with SR3.

`bsr` is the degradation model of BSRGAN (Zhang et al. 2021, "Designing a Practical Degradation Model for Deep Blind
Image Super-Resolution", section 3): the steps of `Strength.steps` in random order, then JPEG. `bsr_light` is the
milder variant of Rombach et al. Orders, probabilities and ranges are those of their released `bsrgan.py` and
`bsrgan_light.py`, with these differences:

- There is no camera step, as in their code: it needs a model of a camera's raw sensor and processing.
- OpenCV's three filters are replaced by Pillow's: bilinear and bicubic without a low-pass filter, and the box filter
  for "area".
- Kernels of even width, which shift the image by half a pixel, are left out.
- The covariance of correlated noise is used as drawn; its element-wise absolute value may not be a covariance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling, Transform

Bytes = NDArray[np.uint8]  # [H, W, C]
Picture = NDArray[np.float32]  # [H, W, C] in [0, 1]
Scalar = TypeVar("Scalar", bound=np.generic)

FILTERS = (Resampling.BILINEAR, Resampling.BICUBIC, Resampling.BOX)
HALVE_PROBABILITY = 0.25  # that a scale of 4 starts with halving
JPEG_PROBABILITY = 0.9  # that the step jpeg compresses


@dataclass(frozen=True)
class Strength:
    """The parameters of a kind of degradation."""

    steps: tuple[str, ...]  # names in STEPS; shuffled, with shrink before fit
    spread: float  # factor for the widths of BSRGAN's Gaussian kernels
    isotropic_widths: tuple[int, ...]  # of kernels, in pixels
    anisotropic_widths: tuple[int, ...]
    strided: float  # probability that shrink takes every n-th pixel instead of resampling
    noise: tuple[int, int]  # lowest and highest standard deviation, of 255
    quality: tuple[int, int]  # lowest and highest, of JPEG


STRENGTHS = {
    "bsr": Strength(
        steps=("blur", "blur", "shrink", "fit", "noise", "jpeg"),
        spread=1.0,
        isotropic_widths=tuple(range(7, 26, 2)),
        anisotropic_widths=tuple(range(7, 26, 2)),
        strided=0.25,
        noise=(2, 25),
        quality=(30, 95),
    ),
    "bsr_light": Strength(
        steps=("blur", "shrink", "fit", "noise", "jpeg"),
        spread=0.25,
        isotropic_widths=(5, 7),
        anisotropic_widths=tuple(range(5, 14, 2)),
        strided=0.2,
        noise=(1, 2),
        quality=(80, 95),
    ),
}
KINDS = ("bicubic", *STRENGTHS)


@dataclass(frozen=True)
class Task:
    """The target of a degradation."""

    strength: Strength
    scale: int  # by which the steps shrink the image
    size: tuple[int, int]  # height and width of the result


Step = Callable[[Picture, Task, np.random.Generator], Picture]


def degrade(image: Bytes, scale: int, kind: str, generator: np.random.Generator) -> Bytes:
    """image [H, W, C], C 1 or 3 -> [H / scale, W / scale, C]. Equal generator states give equal bytes.

    scale: at least 1, a divisor of H and of W. kind: one of KINDS; bicubic draws no random numbers. Raises ValueError.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: {kind!r} is not known; permitted: {', '.join(KINDS)}")
    if scale < 1:
        raise ValueError(f"scale: {scale} is not allowed; permitted: at least 1")
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"image: the shape {image.shape} is not allowed; permitted: [H, W, 1], [H, W, 3]")
    height, width = image.shape[:2]
    if not height or not width or height % scale or width % scale:
        raise ValueError(f"image: {height}x{width} is not allowed; permitted: multiples of the scale, {scale}")
    size = height // scale, width // scale
    if kind == "bicubic":
        return _bicubic(image, size)
    return _degrade_blindly(image.astype(np.float32) / np.float32(255), Task(STRENGTHS[kind], scale, size), generator)


def _degrade_blindly(image: Picture, task: Task, generator: np.random.Generator) -> Bytes:
    if task.scale == 4 and generator.random() < HALVE_PROBABILITY:
        image = _halve(image, generator)
        task = Task(task.strength, 2, task.size)
    names = [task.strength.steps[position] for position in generator.permutation(len(task.strength.steps))]
    shrink, fit = sorted((names.index("shrink"), names.index("fit")))
    names[shrink], names[fit] = "shrink", "fit"
    for name in names:
        image = STEPS[name](image, task, generator)
    return _compress(image, task, generator)


def _halve(image: Picture, generator: np.random.Generator) -> Picture:
    size = image.shape[0] // 2, image.shape[1] // 2
    return _resize(image, size, generator) if generator.random() < 0.5 else np.clip(_bicubic(image, size), 0, 1)


def _blur(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Gaussian blur, isotropic or anisotropic with equal probability."""
    return BLURS["isotropic" if generator.random() < 0.5 else "anisotropic"](image, task, generator)


def _blur_isotropic(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Standard deviation up to 2 + 0.2 scale, in pixels, times the spread."""
    deviation = generator.uniform(0, task.strength.spread * (2 + 0.2 * task.scale))
    width = generator.choice(task.strength.isotropic_widths)
    return _convolve(image, _gaussian(width // 2, deviation**2 * np.eye(2)))


def _blur_anisotropic(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Variances along two axes, turned by any angle, each up to 4 + scale, in square pixels, times the spread."""
    variances = generator.uniform(0, task.strength.spread * (4 + task.scale), 2)
    angle = generator.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    width = generator.choice(task.strength.anisotropic_widths)
    return _convolve(image, _gaussian(width // 2, turn @ np.diag(variances) @ turn.T))


def _shrink(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Shrink to a random size, which `fit` corrects."""
    return SHRINKS["strided" if generator.random() < task.strength.strided else "resampled"](image, task, generator)


def _shrink_resampled(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Shrink by a factor from 1 to twice the scale; beyond the scale, `fit` enlarges again."""
    factor = generator.uniform(1, 2 * task.scale)
    return _resize(image, (max(1, int(image.shape[0] / factor)), max(1, int(image.shape[1] / factor))), generator)


def _shrink_strided(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Take every scale-th pixel of a blurred image, with the kernel shifted to the centres of blocks."""
    deviation = generator.uniform(0.1, 0.6 * task.scale)
    kernel = _gaussian(3 * task.scale, deviation**2 * np.eye(2), centre=-(task.scale - 1) / 2)
    return _convolve(image, kernel)[:: task.scale, :: task.scale]


def _fit(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Resize to the size of the result."""
    return _resize(image, task.size, generator)


def _noise(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Add Gaussian noise of one of three kinds."""
    name = generator.choice(list(NOISES), p=[0.4, 0.4, 0.2])
    noisy: Picture = image + NOISES[name](image, task, generator)
    return np.clip(noisy, 0, 1)


def _colour(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Noise that is independent in each channel."""
    return _level(task, generator) * generator.standard_normal(image.shape, np.float32)


def _grey(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Noise that is equal in all channels."""
    return _level(task, generator) * generator.standard_normal((*image.shape[:2], 1), np.float32)


def _correlated(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Noise of covariance L^2 U^T D U between channels: U orthogonal, D diagonal in [0, 1], L the highest level."""
    channels = image.shape[2]
    orthogonal, _ = np.linalg.qr(generator.standard_normal((channels, channels)))
    root = np.sqrt(generator.random(channels))[:, None] * orthogonal * task.strength.noise[1] / 255
    noise: Picture = generator.standard_normal(image.shape, np.float32) @ root.astype(np.float32)
    return noise


def _jpeg(image: Picture, task: Task, generator: np.random.Generator) -> Picture:
    """Compress as JPEG and decode, with JPEG_PROBABILITY."""
    if generator.random() >= JPEG_PROBABILITY:
        return image
    return _compress(image, task, generator).astype(np.float32) / np.float32(255)


STEPS: dict[str, Step] = {"blur": _blur, "shrink": _shrink, "fit": _fit, "noise": _noise, "jpeg": _jpeg}
BLURS: dict[str, Step] = {"isotropic": _blur_isotropic, "anisotropic": _blur_anisotropic}
SHRINKS: dict[str, Step] = {"resampled": _shrink_resampled, "strided": _shrink_strided}
NOISES: dict[str, Step] = {"colour": _colour, "grey": _grey, "correlated": _correlated}  # they return only the noise


def _level(task: Task, generator: np.random.Generator) -> np.float32:
    return np.float32(generator.integers(*task.strength.noise, endpoint=True) / 255)


def _gaussian(radius: int, covariance: NDArray[np.float64], centre: float = 0.0) -> NDArray[np.float64]:
    """Return a Gaussian kernel [2 radius + 1, 2 radius + 1] with sum 1.

    covariance: [2, 2], in square pixels. centre: offset from the middle on both axes, in pixels.
    """
    axis = np.arange(-radius, radius + 1) - centre
    offsets = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    precision = np.linalg.inv(covariance + 1e-3 * np.eye(2))  # a variance of 0 is a point
    kernel: NDArray[np.float64] = np.exp(-0.5 * np.einsum("yxi,ij,yxj->yx", offsets, precision, offsets))
    kernel /= kernel.sum()
    return kernel


def _convolve(image: Picture, kernel: NDArray[np.float64]) -> Picture:
    """Convolve by Fourier transforms, ten times as fast for the widest kernels. Edges are mirrored."""
    radius = len(kernel) // 2
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    size = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel.astype(np.float32), size)[..., None]
    return np.clip(np.fft.irfft2(spectrum, size, axes=(0, 1))[2 * radius :, 2 * radius :], 0, 1)


def _bicubic(image: NDArray[Scalar], size: tuple[int, int]) -> NDArray[Scalar]:
    """Resize bicubically with a low-pass filter; keeps the dtype."""
    planes = [Image.fromarray(plane).resize(size[::-1], Resampling.BICUBIC) for plane in _planes(image)]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def _resize(image: Picture, size: tuple[int, int], generator: np.random.Generator) -> Picture:
    """Resize with a random one of FILTERS."""
    method = FILTERS[generator.integers(len(FILTERS))]
    planes = [Image.fromarray(plane) for plane in _planes(image)]
    if method is Resampling.BOX:
        planes = [plane.resize(size[::-1], method) for plane in planes]
    else:  # unlike resize, transform has no low-pass filter
        whole = (0, 0, image.shape[1], image.shape[0])
        planes = [plane.transform(size[::-1], Transform.EXTENT, whole, method) for plane in planes]
    filtered: Picture = np.stack([np.asarray(plane) for plane in planes], axis=2)
    return np.clip(filtered, 0, 1)


def _planes(image: NDArray[Scalar]) -> list[NDArray[Scalar]]:
    return [np.ascontiguousarray(image[..., channel]) for channel in range(image.shape[2])]


def _compress(image: Picture, task: Task, generator: np.random.Generator) -> Bytes:
    quality = int(generator.integers(*task.strength.quality, endpoint=True))
    pixels = np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(pixels.shape).copy()
