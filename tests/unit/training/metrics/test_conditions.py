"""Drawn scenes obey their own records, and no others'."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from training.data import shapes
from training.data.image_set import ImageSet
from training.data.shapes import CLASSES, Scene, Shape
from training.metrics import conditions
from training.model.pixels import to_unit

COUNT = 200


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return shapes.prepare(tmp_path_factory.mktemp("shapes"), count=COUNT)


def test_what_was_drawn_obeys_and_what_was_drawn_for_another_does_not(scenes: ImageSet) -> None:
    images = scenes.pixels(range(COUNT))
    texts, labels, layouts = ([record[field] for record in scenes.records] for field in ("text", "label", "boxes"))
    maps = scenes.maps
    assert maps is not None
    assert conditions.caption_accuracy(images, texts) > 0.99
    assert conditions.class_accuracy(images, labels) > 0.99
    assert conditions.box_overlap(images, layouts) > 0.9
    assert conditions.map_overlap(images, maps) > 0.95
    others = images.roll(1, 0)
    assert conditions.caption_accuracy(others, texts) < 0.05
    assert conditions.class_accuracy(others, labels) < 0.2
    assert conditions.box_overlap(others, layouts) < 0.1
    assert conditions.map_overlap(others, maps) < 0.4


LEFT, RIGHT = (0.1, 0.3, 0.4, 0.6), (0.6, 0.3, 0.9, 0.6)


def drawn(*placed: tuple[str, tuple[float, float, float, float]], size: int = 40) -> Tensor:
    """One image of squares of these colours on black."""
    scene = Scene("black", tuple(Shape("square", colour, box) for colour, box in placed))
    return to_unit(torch.from_numpy(shapes.render(scene, size)[0][None]))


def layout(*placed: tuple[str, Sequence[float]]) -> list[dict[str, object]]:
    return [{"class": CLASSES.index(f"{colour} square"), "box": list(box)} for colour, box in placed]


def test_a_missing_shape_and_one_too_many_count_nothing() -> None:
    red_left, blue_right = ("red", LEFT), ("blue", RIGHT)
    both, one = drawn(red_left, blue_right), drawn(red_left)
    assert conditions.box_overlap(both, [layout(red_left, blue_right)]) == pytest.approx(1, abs=0.05)
    assert conditions.box_overlap(one, [layout(red_left, blue_right)]) == pytest.approx(1 / 2, abs=0.05)
    assert conditions.box_overlap(both, [layout(red_left)]) == pytest.approx(1 / 2, abs=0.05)
    assert conditions.box_overlap(one, [layout(("green", LEFT))]) == 0  # one asked for, another seen
    shifted = ("red", (0.1, 0.45, 0.4, 0.75))
    assert conditions.box_overlap(one, [layout(shifted)]) == pytest.approx(1 / 3, abs=0.03)
    assert conditions.box_overlap(torch.cat([one, both]), [layout(red_left)] * 2) == pytest.approx(2 / 3, abs=0.05)


def test_of_two_shapes_of_one_class_the_better_one_counts() -> None:
    two = drawn(("red", LEFT), ("red", RIGHT))
    assert conditions.box_overlap(two, [layout(("red", RIGHT))]) == pytest.approx(1 / 2, abs=0.05)


def test_maps_are_compared_over_all_images() -> None:
    images = torch.cat([drawn(("red", LEFT)), drawn(("red", RIGHT))])
    square = 1 + shapes.SHAPES.index("square")
    asked = np.zeros((2, 40, 40), np.uint8)
    asked[0, 12:24, 4:16] = square  # LEFT, which the second image does not show
    shown = square_pixels = 12 * 12
    ground = 2 * 40 * 40 - shown - square_pixels
    expected = (square_pixels / (2 * square_pixels) + ground / (ground + square_pixels)) / 2
    assert conditions.map_overlap(images, asked) == pytest.approx(expected, abs=1e-6)


def test_an_image_without_shapes_obeys_nothing() -> None:
    empty = drawn()
    assert conditions.caption_accuracy(empty, ["a red square on black"]) == 0
    assert conditions.class_accuracy(empty, [0]) == 0
    assert conditions.box_overlap(empty, [layout(("red", LEFT))]) == 0
