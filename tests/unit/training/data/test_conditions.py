"""What a request says of an image, for each type of conditioner."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data import conditions, degradations, image_set, masks
from training.data.conditions import AnnotatedImage, Requests
from training.data.image_set import ImageSet
from training.experiments.conditions import Condition
from training.model import conditioners

SIDE = 32
BOXES = [{"class": i, "box": [i / 10, 0.25, (i + 1) / 10, 0.5]} for i in range(8)]
RECORD = {"name": "a", "label": 2, "text": "a red cat", "boxes": BOXES}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def shown(record: dict[str, Any] | None = None, **changes: Any) -> AnnotatedImage:
    """A picture with everything that a picture may have."""
    pixels = generator().integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    parts: dict[str, Any] = {"map": pixels[..., 0] // 64, "mask": (pixels[..., 1] // 128) * 255, **changes}
    return AnnotatedImage(pixels, RECORD if record is None else record, **parts)


def value(kind: str, picture: AnnotatedImage | None = None, seed: int = 0, **options: Any) -> Any:
    (found,) = Requests({"field": kind}, **options)(shown() if picture is None else picture, generator(seed)).values()
    return found


def test_every_type_that_an_experiment_may_have_has_a_value() -> None:
    union = Condition.__args__[0]
    types = {one.__dataclass_fields__["type"].type.__args__[0] for one in union.__args__}
    assert types == set(conditions.VALUES)
    assert types == set(conditioners.TYPES) - {"token_ids"}  # of which no record tells


def test_a_request_has_a_value_for_each_field() -> None:
    requests = Requests({"label": "class", "caption": "text", "title": "frozen_text", "scene": "semantic_map"})
    picture = shown()
    found = requests(picture, generator())
    assert list(found) == ["label", "caption", "title", "scene"]
    assert (found["label"], found["caption"], found["title"]) == (2, "a red cat", "a red cat")
    assert found["scene"] is picture.map
    assert Requests({})(picture, generator()) == {}


@pytest.mark.parametrize("kind", ["class", "text", "frozen_text", "layout", "semantic_map"])
def test_what_a_record_lacks_is_none(kind: str) -> None:
    assert value(kind, shown({"name": "b"}, map=None, mask=None)) is None


def test_a_value_of_zero_or_nothing_is_a_value() -> None:
    assert value("class", shown({"label": 0})) == 0
    assert value("text", shown({"text": ""})) == ""
    assert value("layout", shown({"boxes": []})) == {"boxes": []}


# -- layouts ---------------------------------------------------------------------------------------


def test_the_order_of_objects_is_the_generator_s() -> None:
    found = [value("layout", seed=seed)["boxes"] for seed in range(40)]
    for boxes in found:
        assert sorted(boxes, key=lambda one: one["class"]) == BOXES
    first = [boxes[0]["class"] for boxes in found]
    assert set(first) == set(range(8))
    assert value("layout", seed=3) == value("layout", seed=3)
    assert RECORD["boxes"] == [{"class": i, "box": [i / 10, 0.25, (i + 1) / 10, 0.5]} for i in range(8)]


def test_of_too_many_objects_some_are_drawn() -> None:
    found = [value("layout", seed=seed, objects=3)["boxes"] for seed in range(60)]
    assert {len(boxes) for boxes in found} == {3}
    assert all(len({one["class"] for one in boxes}) == 3 for boxes in found)
    assert {one["class"] for boxes in found for one in boxes} == set(range(8))  # none is always left out
    assert len(value("layout", objects=20)["boxes"]) == 8


def test_boxes_of_a_mirrored_picture_are_mirrored() -> None:
    straight, turned = value("layout", seed=1), value("layout", shown(mirrored=True), seed=1)
    for one, other in zip(straight["boxes"], turned["boxes"], strict=True):
        x0, y0, x1, y1 = one["box"]
        assert other == {"class": one["class"], "box": [1 - x1, y0, 1 - x0, y1]}
    assert conditions.mirror_box([0.0, 0.25, 0.5, 1.0]) == [0.5, 0.25, 1.0, 1.0]


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", degradations.KINDS)
def test_a_low_resolution_image_is_as_much_smaller_as_is_asked(kind: str, scale: int, channels: int) -> None:
    picture = AnnotatedImage(shown().pixels[..., :channels], {})
    small = value("low_resolution", picture, degradation=kind, scale=scale)
    assert small.dtype == np.uint8
    assert small.shape == (SIDE // scale, SIDE // scale, channels)
    assert np.array_equal(small, degradations.degrade(picture.pixels, scale, kind, generator()))


def test_a_blind_degradation_is_the_generator_s() -> None:
    found = [value("low_resolution", seed=seed, degradation="bsr").tobytes() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_a_hole_is_drawn_or_that_of_the_set() -> None:
    picture = shown()
    drawn = value("masked_image", picture, masks="wide")
    assert drawn["image"] is picture.pixels
    assert np.array_equal(drawn["mask"], masks.draw("wide", SIDE, SIDE, generator()))
    assert not np.array_equal(drawn["mask"], value("masked_image", picture, seed=1, masks="wide")["mask"])
    given = value("masked_image", picture, masks="given")
    assert given["image"] is picture.pixels
    assert given["mask"] is picture.mask
    assert value("masked_image", shown(mask=None), masks="given") is None
    assert value("masked_image", shown(mask=None))["mask"].any()  # drawn ones need none


@pytest.mark.parametrize("kind", conditions.VALUES)
def test_equal_states_of_the_generator_give_equal_values(kind: str) -> None:
    def plain(found: Any) -> Any:
        if isinstance(found, dict):
            return {key: plain(inner) for key, inner in found.items()}
        return found.tolist() if isinstance(found, np.ndarray) else found

    assert plain(value(kind, degradation="bsr_light")) == plain(value(kind, degradation="bsr_light"))


@pytest.mark.parametrize(
    ("types", "needed"),
    [
        ({}, False),
        ({"a": "class", "b": "text", "c": "frozen_text", "d": "layout"}, False),
        ({"a": "class", "b": "semantic_map"}, True),
        ({"a": "low_resolution"}, True),
        ({"a": "masked_image"}, True),
    ],
)
def test_requests_tell_whether_records_are_enough(types: dict[str, str], needed: bool) -> None:
    assert Requests(types).needs_pixels == needed


# -- what a set lacks ------------------------------------------------------------------------------


def some(field: str, given: Any, has: Callable[[int], bool]) -> list[dict[str, Any]]:
    return [{"name": str(row), **({field: given} if has(row) else {})} for row in range(8)]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., ImageSet]:
    """Sets of 6 training and 2 held-out images."""
    zeros: NDArray[np.uint8] = np.zeros((8, 16, 16, 1), np.uint8)

    def write(records: list[dict[str, Any]], **more: Any) -> ImageSet:
        return image_set.write(tmp_path, name="some", images=zeros, records=records, train_count=6, **more)

    return write


@pytest.mark.parametrize(
    ("kind", "field", "given"),
    [("class", "label", 0), ("text", "text", "a"), ("frozen_text", "text", "a"), ("layout", "boxes", [])],
)
def test_training_images_without_a_value_are_counted(
    kind: str, field: str, given: Any, written: Callable[..., ImageSet]
) -> None:
    assert conditions.count_missing(written(some(field, given, lambda row: row not in (1, 4, 7))), kind) == 2
    assert conditions.count_missing(written(some(field, given, lambda row: row < 6)), kind) == 0
    assert conditions.count_missing(written(some(field, given, lambda row: row >= 6)), kind) == 6


def test_maps_and_masks_are_there_for_all_or_for_none(written: Callable[..., ImageSet]) -> None:
    records, plane = some("text", "a", bool), np.zeros((8, 16, 16), np.uint8)
    bare = written(records)
    assert conditions.count_missing(bare, "semantic_map") == 6
    assert conditions.count_missing(bare, "low_resolution") == 0
    assert conditions.count_missing(bare, "masked_image") == 0
    assert conditions.count_missing(bare, "masked_image", given_masks=True) == 6
    full = written(records, maps=plane, masks=plane)
    assert conditions.count_missing(full, "semantic_map") == 0
    assert conditions.count_missing(full, "masked_image", given_masks=True) == 0
