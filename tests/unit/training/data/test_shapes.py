"""The built-in scenes: what is said of them is what is in them, and the judge reads it back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from training.data import image_set, shapes
from training.data.image_set import ImageSet
from training.data.shapes import CLASSES, Scene, Shape

COUNT = 600
Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return shapes.prepare(tmp_path_factory.mktemp("shapes"), count=COUNT)


def overlap(a: tuple[float, ...] | list[float], b: tuple[float, ...] | list[float]) -> float:
    """Intersection over union of two boxes."""
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_the_same_bytes_every_time_and_a_scene_does_not_depend_on_the_others(scenes: ImageSet, tmp_path: Path) -> None:
    again = shapes.prepare(tmp_path / "again", count=COUNT)
    assert again.description == scenes.description
    fewer = shapes.prepare(tmp_path / "fewer", count=24)
    assert (fewer.images == scenes.images[:24]).all()
    assert fewer.records == scenes.records[:24]
    assert (fewer.description.train_count, fewer.description.count) == (22, 24)


def test_classes_are_balanced(scenes: ImageSet) -> None:
    assert len(CLASSES) == 12
    counts = np.bincount([record["label"] for record in scenes.records])
    assert min(counts) > 0.6 * COUNT / 12
    assert len({len(record["boxes"]) for record in scenes.records}) == 3


def noisy(image: Image) -> Image:
    noise = np.random.default_rng(int(image.sum())).normal(0, 12, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def soft(image: Image) -> Image:
    return np.asarray(ndimage.gaussian_filter(image, (0.6, 0.6, 0)))


@pytest.mark.parametrize(
    ("spoilt", "right", "boxes"), [(np.asarray, 0.995, 0.92), (noisy, 0.97, 0.9), (soft, 0.97, 0.9)]
)
def test_the_judge_reads_back_what_was_drawn(
    spoilt: Callable[[Image], Image], right: float, boxes: float, scenes: ImageSet
) -> None:
    good, obeyed, maps, overlaps = 0, 0, [], []
    assert scenes.maps is not None
    for image, record, labels in zip(scenes.images, scenes.records, scenes.maps, strict=True):
        seen, seen_map = shapes.inspect(spoilt(image))
        asked = {CLASSES[one["class"]]: one["box"] for one in record["boxes"]}
        found = {one.name: one.box for one in seen.shapes}
        obeyed += shapes.matches(seen, record["text"])
        maps.append((seen_map == labels).mean())
        if len(seen.shapes) == len(asked) and set(found) == set(asked):
            good += seen.shapes[0].name == CLASSES[record["label"]]
            overlaps += [overlap(found[name], box) for name, box in asked.items()]
    assert good >= right * COUNT
    assert obeyed >= right * COUNT
    assert np.mean(overlaps) >= boxes
    assert np.mean(maps) >= 0.985


def test_the_judge_sees_what_is_wrong(scenes: ImageSet) -> None:
    """It is not satisfied by the picture of another caption, or by noise."""
    seen = [shapes.read_back(np.asarray(image)) for image in scenes.images[:200]]
    captions = [record["text"] for record in scenes.records[:200]]
    for i in range(200):
        if captions[i] != captions[i - 1]:
            assert not shapes.matches(seen[i], captions[i - 1])
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert not any(shapes.matches(shapes.read_back(noise), words) for words in captions)
    assert shapes.read_back(np.full((32, 32, 3), 128, np.uint8)) == Scene("grey", ())


def test_boxes_and_maps_fit_the_pixels(scenes: ImageSet) -> None:
    assert scenes.maps is not None
    for image, record, labels in zip(scenes.images[:100], scenes.records[:100], scenes.maps[:100], strict=True):
        ground = image[0, 0] if labels[0, 0] == 0 else image[-1, -1]
        drawn = (image != ground).any(-1)
        x0, y0, x1, y1 = np.array([one["box"] for one in record["boxes"]]).T * 32
        ys, xs = np.nonzero(drawn)
        found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert np.abs(np.array(found) - (x0.min(), y0.min(), x1.max(), y1.max())).max() <= 1.25
        assert not labels[~drawn].any()


def test_larger_pictures_show_the_same_scenes(scenes: ImageSet, tmp_path: Path) -> None:
    large = shapes.prepare(tmp_path, count=60, image_size=64)
    assert large.images.shape == (60, 64, 64, 3)
    assert large.records == scenes.records[:60]
    for image, record in zip(large.images, large.records, strict=True):
        assert shapes.matches(shapes.read_back(np.asarray(image)), record["text"])


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ((), "a red circle on black"),
        ((("blue square", 0.6, 0.1),), "a red circle left of a blue square on black"),
        ((("blue square", 0.1, 0.6),), "a red circle above a blue square on black"),
        ((("blue square", 0.1, 0.6), ("red square", 0.6, 0.6)),
         "a red circle above a blue square and a red square on black"),
    ],
)  # fmt: skip
def test_captions_say_all(others: tuple[tuple[str, float, float], ...], words: str) -> None:
    drawn = [Shape("circle", "red", (0.1, 0.1, 0.45, 0.45))]
    for i, (name, x, y) in enumerate(others):
        colour, shape = name.split()
        side = 0.3 - 0.05 * i
        drawn.append(Shape(shape, colour, (x, y, x + side, y + side)))
    scene = Scene("black", tuple(drawn))
    assert shapes.caption(scene) == words
    assert shapes.matches(shapes.read_back(shapes.render(scene, 32)[0]), words)


def test_the_set_is_whole(scenes: ImageSet) -> None:
    assert scenes.maps is not None
    assert int(scenes.maps.max()) == len(scenes.description.map_classes) - 1 == 3
    assert scenes.description.classes == scenes.description.box_classes == CLASSES
    assert set(scenes.records[0]) == {"name", *image_set.FIELDS}
