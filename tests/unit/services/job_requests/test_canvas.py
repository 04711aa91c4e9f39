"""Images to begin with are resized to the output or refused, before and while they are decoded."""

from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from services.job_requests.canvas import CANVAS, Canvas, read_beginning
from services.job_requests.condition_images import check_items
from services.job_requests.schema import Limits
from services.job_requests.strict_json import RequestError
from tests.support.images import as_base64, image_file

CANVAS_32 = Canvas(1, 32, 32)
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


def test_an_image_that_is_stored_sideways_has_its_size_as_shown() -> None:
    wide = Canvas(1, 64, 32)
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
