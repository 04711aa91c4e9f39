"""Images to begin with are resized to the output or refused, before and while they are decoded."""

import random
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from services.job_requests.canvas import CANVAS, Canvas, read_beginning
from services.job_requests.condition_images import check_items
from services.job_requests.image_rules import IMAGE_RULE, ImageRule
from services.job_requests.schema import Limits
from services.job_requests.strict_json import RequestError
from tests.support.images import as_base64, image_file

CANVAS_32 = Canvas(1, 32, 32, unit=8)
RULES: dict[str, Any] = {"type": "object", "properties": {}, CANVAS: CANVAS_32}
LIMITS = Limits(["outputs/default"], ["inputs/default"], bucket="ours")


def image_of(width: int, height: int, **options: Any) -> str:
    return as_base64(image_file(Image.new("L", (width, height), 99), **options))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"image": image_of(64, 32)},
            "image: 64 pixels wide and 32 high is not allowed; "
            "permitted: the proportions of the output, 32 wide and 32 high",
        ),
        (
            {"image": image_of(64, 64), "mask": image_of(32, 32)},
            "mask: 32 pixels wide and 32 high is not allowed; permitted: 64 wide and 64 high, as the image",
        ),
        ({"image": image_of(32, 32), "mask": "AAAA"}, "mask: a file that begins with"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_planned_and_when_it_is_read(
    item: dict[str, str], message: str
) -> None:
    with pytest.raises(RequestError) as planned:
        check_items([item], RULES, LIMITS)
    assert str(planned.value).startswith(f"items[0].{message}")
    if "mask" in item:  # the job's image with the item's mask
        with pytest.raises(RequestError) as planned:
            check_items([{"mask": item["mask"]}], RULES, LIMITS, job={"image": item["image"]})
        assert str(planned.value).startswith(f"items[0].{message}")
    with pytest.raises(ValueError, match=message[:20]) as read:
        read_beginning(item, CANVAS_32, CANVAS_32.size)
    assert str(read.value).startswith(message)


@pytest.mark.parametrize(
    ("canvas", "size", "nearest"),
    [
        (CANVAS_32, (100, 60), (96, 64)),
        (CANVAS_32, (1, 5000), (8, 2048)),
        (CANVAS_32, (2048, 2048), (256, 256)),  # 64 times the area
        (CANVAS_32, (2048, 40), (1832, 32)),
        (Canvas(3, 256, 256, unit=32), (2000, 2000), (1984, 1984)),
        (Canvas(3, 256, 256, unit=32), (3000, 4000), (2048, 2048)),
        (Canvas(3, 512, 512, unit=64), (4000, 1000), (2048, 1024)),
        (Canvas(3, 60, 60, unit=32), (60, 64), (64, 64)),
    ],
)
def test_a_size_that_does_not_fit_has_a_nearest_one_that_does(
    canvas: Canvas, size: tuple[int, int], nearest: tuple[int, int]
) -> None:
    assert not canvas.fits(size)
    assert canvas.nearest(size) == nearest
    assert canvas.fits(nearest)


def test_every_size_has_a_nearest_one_that_fits() -> None:
    draw = random.Random(0)
    for canvas in (CANVAS_32, Canvas(3, 256, 256, unit=64), Canvas(3, 28, 28, unit=8), Canvas(3, 4096, 4096, unit=16)):
        assert canvas.fits(canvas.size)
        for _ in range(500):
            assert canvas.fits(canvas.nearest((draw.randint(1, 5000), draw.randint(1, 300))))


def test_an_image_in_a_condition_follows_the_size() -> None:
    rule = {"type": "string", "contentEncoding": "base64", IMAGE_RULE: ImageRule("labels", size=(64, 64))}
    rules = {**RULES, "properties": {"semantic_map": rule}}
    square, wide = {"semantic_map": image_of(64, 64)}, {"size": [64, 32]}
    check_items([square, {"semantic_map": image_of(128, 64), **wide}], rules, LIMITS)
    with pytest.raises(RequestError, match=r"items\[0\].semantic_map: .* permitted: 128 wide and 64 high"):
        check_items([{**square, **wide}], rules, LIMITS)
    with pytest.raises(RequestError, match="permitted: the proportions of the output, 64 wide and 32 high"):
        check_items([{"image": image_of(32, 32)}], RULES, LIMITS, job={"size": [64, 32]})


def test_an_image_that_is_stored_sideways_has_its_size_as_shown() -> None:
    wide = Canvas(1, 64, 32, unit=8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    item = {"image": image_of(32, 64, exif=exif), "strength": 0.5}
    check_items([item], {**RULES, CANVAS: wide}, LIMITS)
    assert read_beginning(item, wide, wide.size).image.shape == (32, 64)


def test_a_mask_is_shrunk_so_that_its_hole_stays_a_hole() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[5, 9] = 255
    read = read_beginning({"image": image_of(64, 64), "mask": as_base64(image_file(mask))}, CANVAS_32, (32, 32))
    assert read.hole is not None
    assert np.argwhere(read.hole).tolist() == [[2, 4]]


def test_a_mistake_of_the_job_s_image_is_told_once_and_names_its_field() -> None:
    job = {"image": "no file!", "strength": 0.5}
    with pytest.raises(RequestError) as caught:
        check_items([{}, {"strength": 1}, {"size": [64, 64]}], RULES, LIMITS, job=job)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["image", "items[2].image"]
