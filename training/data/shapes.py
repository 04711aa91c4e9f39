"""Drawn scenes of coloured shapes, whose conditions are known exactly and can be read back from the pixels.

A scene has one to three shapes that do not touch, no two of the same shape and colour, on a plain ground. `read_back`
measures from the pixels whether a model follows a class, a caption, boxes or a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from training.data.image_set import ImageSet, write

SHAPES = ("circle", "square", "triangle")
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (235, 200, 40)}
GROUNDS = {"black": (20, 20, 20), "grey": (128, 128, 128), "white": (235, 235, 235)}
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
PALETTE = np.array([*COLOURS.values(), *GROUNDS.values()], dtype=np.float32)

SMALLEST, LARGEST, APART = 0.24, 0.45, 0.04  # sides of shapes, and least difference between two of a scene
GAP = 0.06  # between boxes: two pixels of 32
SUPERSAMPLED = 4
SPECK = 0.012  # share of the image below which a patch of colour is not a shape
HELD_OUT = 12  # one image in twelve


@dataclass(frozen=True)
class Shape:
    """A shape that fills its box (x0, y0, x1, y1), in shares of the image's sides."""

    shape: str
    colour: str
    box: tuple[float, float, float, float]

    @property
    def name(self) -> str:
        """The name of its class."""
        return f"{self.colour} {self.shape}"

    @property
    def side(self) -> float:
        """The longer side of its box."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def centre(self) -> tuple[float, float]:
        """The centre of its box, (x, y)."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Scene:
    """Shapes, the largest first, on a ground."""

    ground: str
    shapes: tuple[Shape, ...]


def prepare(root: Path, *, count: int = 12_000, image_size: int = 32) -> ImageSet:
    """Write the set to `root`, the last twelfth held out. Scene i is the same every time and for any count."""
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    maps = np.empty((count, image_size, image_size), np.uint8)
    records: list[dict[str, Any]] = []
    for i in range(count):
        scene = draw_scene(np.random.Generator(np.random.Philox(key=[0, i])))
        images[i], maps[i] = render(scene, image_size)
        boxes = [{"class": CLASSES.index(one.name), "box": [round(x, 6) for x in one.box]} for one in scene.shapes]
        records.append({"name": f"shapes-{i:06d}", "text": caption(scene), "label": boxes[0]["class"], "boxes": boxes})
    return write(
        root, name="shapes", images=images, maps=maps, records=records, train_count=count - count // HELD_OUT,
        classes=CLASSES, box_classes=CLASSES, map_classes=("ground", *SHAPES),
    )  # fmt: skip


def draw_scene(generator: Generator) -> Scene:
    """Draw a random scene. All classes of the largest shape are equally likely."""
    names = [CLASSES[i] for i in generator.permutation(len(CLASSES))[: int(generator.integers(1, 4))]]
    while True:  # three large shapes may not fit
        sides = sorted(generator.uniform(SMALLEST, LARGEST, len(names)), reverse=True)
        if any(a - b < APART for a, b in pairwise(sides)):
            continue
        shapes: list[Shape] = []
        for name, side in zip(names, sides, strict=True):
            x, y = generator.uniform(0.02, 0.98 - side, 2)
            colour, shape = name.split()
            shapes.append(Shape(shape, colour, (float(x), float(y), float(x + side), float(y + side))))
        if all(are_apart(a.box, b.box) for i, a in enumerate(shapes) for b in shapes[:i]) and is_unambiguous(shapes):
            return Scene(str(generator.choice(list(GROUNDS))), tuple(shapes))


def are_apart(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether two boxes have a gap between them."""
    return a[2] + GAP < b[0] or b[2] + GAP < a[0] or a[3] + GAP < b[1] or b[3] + GAP < a[1]


def is_unambiguous(shapes: Sequence[Shape]) -> bool:
    """Return whether the relation of the first two shapes does not depend on a pixel."""
    if len(shapes) < 2:
        return True
    (ax, ay), (bx, by) = shapes[0].centre, shapes[1].centre
    return abs(abs(ax - bx) - abs(ay - by)) > APART


def render(scene: Scene, image_size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Render a scene as an image [S, S, 3] and a map [S, S]: 0 for the ground, else 1 + the index in SHAPES.

    A pixel belongs to the shape that covers at least half of it.
    """
    large = image_size * SUPERSAMPLED
    image = np.full((image_size, image_size, 3), GROUNDS[scene.ground], dtype=np.float32)
    labels = np.zeros((image_size, image_size), np.uint8)
    for one in scene.shapes:
        canvas = Image.new("1", (large, large))
        pen = ImageDraw.Draw(canvas)
        x0, y0, x1, y1 = (value * large - 0.5 for value in one.box)  # between pixel centres
        match one.shape:
            case "circle":
                pen.ellipse((x0, y0, x1, y1), fill=1)
            case "square":
                pen.rectangle((x0, y0, x1, y1), fill=1)
            case _:
                pen.polygon([((x0 + x1) / 2, y0), (x1, y1), (x0, y1)], fill=1)
        parts = np.asarray(canvas, dtype=np.float32).reshape(image_size, SUPERSAMPLED, image_size, SUPERSAMPLED)
        cover = parts.mean((1, 3))
        image += cover[..., None] * (np.array(COLOURS[one.colour], np.float32) - image)
        labels[cover >= 0.5] = 1 + SHAPES.index(one.shape)
    return image.round().astype(np.uint8), labels


# -- captions ------------------------------------------------------------------------------------


def caption(scene: Scene) -> str:
    """Describe a scene: "a red circle left of a blue square and a green triangle on grey"."""
    first, *others = scene.shapes
    words = f"a {first.name}"
    if others:
        words += f" {relation(first, others[0])} a {others[0].name}"
    words += "".join(f" and a {one.name}" for one in others[1:])
    return f"{words} on {scene.ground}"


def relation(a: Shape, b: Shape) -> str:
    """Return where a is, seen from b, along the axis of their larger distance."""
    dx, dy = b.centre[0] - a.centre[0], b.centre[1] - a.centre[1]
    if abs(dx) >= abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def matches(seen: Scene, words: str) -> bool:
    """Return whether a scene matches a caption: all shapes, colours, the ground, and the relation of the first two.

    Captions do not say which of two shapes is larger, so both orders match.
    """
    if not seen.shapes:
        return False
    orders = [seen.shapes]
    if len(seen.shapes) > 1:
        orders += [(seen.shapes[j], seen.shapes[i], *(s for k, s in enumerate(seen.shapes) if k not in (i, j)))
                   for i in range(len(seen.shapes)) for j in range(len(seen.shapes)) if i != j]  # fmt: skip
    return any(caption(Scene(seen.ground, tuple(order))) == words for order in orders)


# -- reading an image back -----------------------------------------------------------------------


def read_back(image: NDArray[np.uint8]) -> Scene:
    """Read the scene of an image [S, S, 3]: patches of the nearest palette colour, the largest first.

    Tolerates noise and soft edges.
    """
    return inspect(image)[0]


def semantic_map(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read the map of the shapes in an image [S, S, 3]: [S, S], as in `render`."""
    return inspect(image)[1]


def inspect(image: NDArray[np.uint8]) -> tuple[Scene, NDArray[np.uint8]]:
    """Read the scene and the map [S, S] of an image [S, S, 3]."""
    pixels = image.astype(np.float32)
    nearest = ((pixels[..., None, :] - PALETTE) ** 2).sum(-1).argmin(-1)
    size = len(pixels)
    grounds = np.bincount(nearest[nearest >= len(COLOURS)] - len(COLOURS), minlength=len(GROUNDS))
    ground = list(GROUNDS)[int(grounds.argmax())]
    labels = np.zeros((size, size), np.uint8)
    shapes = []
    for number, (colour, full) in enumerate(COLOURS.items()):
        step = np.array(full, np.float32) - np.array(GROUNDS[ground], np.float32)
        # how much the colour covers each pixel
        cover = (pixels - np.array(GROUNDS[ground], np.float32)) @ step / (step @ step)
        patches, found = ndimage.label(nearest == number)
        for patch in range(1, found + 1):
            inside = patches == patch
            if inside.sum() < SPECK * size**2:
                continue
            near = ndimage.binary_dilation(inside, iterations=max(1, size // 32), structure=np.ones((3, 3)))
            shape, box = measure_shape(np.where(near, cover, 0.0), size)
            shapes.append(Shape(shape, colour, box))
            labels[near & (cover >= 0.5)] = 1 + SHAPES.index(shape)
    return Scene(ground, tuple(sorted(shapes, key=lambda one: -one.side))), labels


def measure_shape(cover: NDArray[np.float32], size: int) -> tuple[str, tuple[float, float, float, float]]:
    """Measure the shape and the box of a patch from the coverage of pixels [S, S], to a fraction of a pixel.

    A triangle grows downwards: its rows have skewness -0.57 and deviation height / sqrt(18), its columns have deviation
    width / sqrt(24), and its centroid is a third of its height above its base. Squares and circles are symmetric; their
    longest row is the width, and a circle fills pi / 4 of its box.
    """
    area = float(cover.sum())
    (x, spread_x, _), (y, spread_y, skewness) = (moments(cover.sum(axis) / area) for axis in (0, 1))
    if skewness < -0.28:
        width, height, above = 24**0.5 * spread_x, 18**0.5 * spread_y, 2 / 3
        shape = "triangle"
    else:
        width, height = (float(np.sort(cover.sum(axis))[-2:].mean()) for axis in (1, 0))
        shape, above = "square" if area / (width * height) > 0.89 else "circle", 1 / 2
    box = (x - width / 2, y - above * height, x + width / 2, y + (1 - above) * height)
    x0, y0, x1, y1 = (float(min(max(value / size, 0.0), 1.0)) for value in box)
    return shape, (x0, y0, x1, y1)


def moments(density: NDArray[np.float32]) -> tuple[float, float, float]:
    """Return mean, deviation and skewness of a density over pixels, [S]; the mean from the first pixel's edge."""
    at = np.arange(len(density)) + 0.5
    mean = float(density @ at)
    variance = max(float(density @ (at - mean) ** 2), 1e-6)
    return mean, variance**0.5, float(density @ (at - mean) ** 3) / variance**1.5
