import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from training.data.masks import KINDS, draw

DRAWS = 300


def drawn(kind: str, height: int = 256, width: int = 256, count: int = DRAWS) -> list[NDArray[np.bool_]]:
    generator = np.random.default_rng(0)
    return [draw(kind, height, width, generator) for _ in range(count)]


def opened(hole: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """What squares of side x side cover without leaving the hole."""
    eroded = ndimage.minimum_filter(hole, side, mode="constant")
    return ndimage.maximum_filter(eroded, side, mode="constant", origin=side % 2 - 1)  # the erosion's window, turned


@pytest.mark.parametrize("kind", KINDS)
def test_equal_states_of_the_generator_give_equal_masks(kind: str) -> None:
    for one, two in zip(drawn(kind, 64, 64, 20), drawn(kind, 64, 64, 20), strict=True):
        assert (one == two).all()
    assert len({hole.tobytes() for hole in drawn(kind, 64, 64, 20)}) == 20


@pytest.mark.parametrize("side", [64, 256])
def test_wider_strokes_make_larger_holes(side: int) -> None:
    shares = {kind: np.mean([hole.mean() for hole in drawn(kind, side, side)]) for kind in KINDS}
    assert 0.1 < shares["narrow"] < shares["medium"] < shares["wide"] < 0.5
    assert shares["narrow"] < 0.25
    assert 0.2 < shares["medium"] < 0.35 < shares["wide"]
    assert 0.2 < shares["boxes"] < 0.35
    assert shares["boxes"] < shares["mixed"] < shares["wide"]


def test_strokes_are_as_thick_as_their_name() -> None:
    thickest = {
        kind: max(2 * ndimage.distance_transform_edt(np.pad(hole, 1)).max() for hole in drawn(kind, count=50))
        for kind in ("narrow", "medium", "wide")
    }
    assert 12 < thickest["narrow"] < 0.75 * thickest["medium"] < 0.75 * thickest["wide"]
    alone = [hole for hole in drawn("wide") if ndimage.label(hole)[1] == 1 and hole.mean() < 0.05]
    assert alone
    assert all((opened(hole, 5).sum() > 0.9 * hole.sum()) for hole in alone)  # solid, no hairlines


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 64), (100, 37), (96, 48), (256, 256), (512, 384)])
def test_something_is_missing_and_something_is_left(kind: str, height: int, width: int) -> None:
    for hole in drawn(kind, height, width, 100):
        assert hole.shape == (height, width)
        assert hole.dtype == np.bool_
        assert 0 < hole.sum() < hole.size


@pytest.mark.parametrize("kind", KINDS)
def test_no_part_of_the_picture_is_spared(kind: str) -> None:
    share = np.mean(drawn(kind, 64, 64), axis=0)
    margin = 2 if kind == "boxes" else 0  # 10 pixels of 256, scaled
    assert share[margin : 64 - margin, margin : 64 - margin].min() > 0
    assert share.max() < 0.8


def test_figures_grow_with_the_picture() -> None:
    for kind in ("medium", "wide", "boxes"):
        small, large = (np.mean([hole.mean() for hole in drawn(kind, side, side)]) for side in (64, 512))
        assert small == pytest.approx(large, abs=0.04)


@pytest.mark.parametrize("side", [256, 512])
def test_boxes_are_rectangles_of_30_pixels_or_more_inside_a_margin(side: int) -> None:
    scale = side // 256
    for hole in drawn("boxes", side, side, 50):
        assert (opened(hole, 30 * scale) == hole).all()
        assert hole.sum() <= 4 * (150 * scale) ** 2
        inside = np.zeros_like(hole)
        inside[10 * scale : -10 * scale, 10 * scale : -10 * scale] = True
        assert not (hole & ~inside).any()


def test_mixed_is_boxes_as_often_as_wide_strokes() -> None:
    boxes = [(opened(hole, 30) == hole).all() for hole in drawn("mixed")]
    assert np.mean(boxes) == pytest.approx(0.5, abs=0.1)
    assert not any((opened(hole, 30) == hole).all() for hole in drawn("wide", count=50))


@pytest.mark.parametrize(
    ("kind", "height", "width", "message"),
    [
        ("thick", 64, 64, r"^kind: 'thick' is not known; permitted: narrow, medium, wide, boxes, mixed$"),
        ("wide", 15, 64, r"^height: 15 is not allowed; permitted: at least 16$"),
        ("wide", 64, 0, r"^width: 0 is not allowed; permitted: at least 16$"),
    ],
)
def test_what_cannot_be_drawn_is_named(kind: str, height: int, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(kind, height, width, np.random.default_rng(0))
