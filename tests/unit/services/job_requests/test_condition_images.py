"""Images in conditions: references that are permitted, and what planning checks."""

import base64
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.job_requests import condition_images, image_files
from services.job_requests.condition_images import ImageCheck, check_items, map_images
from services.job_requests.image_rules import IMAGE_RULE, ImageRule, add_image_rules
from services.job_requests.schema import Limits
from services.job_requests.strict_json import RequestError
from tests.support.images import as_base64, image_file

ARCHITECTURE = {
    "conditioners": {
        "masked_image": {"type": "masked_image", "channels": 3, "factor": 4},
        "semantic_map": {"type": "semantic_map", "classes": 4, "channels": 2, "stages": 1},
        "low_resolution": {"type": "low_resolution", "channels": 1, "method": "bicubic"},
        "caption": {"type": "text"},
    }
}
IMAGE = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
MASKED = {"type": "object", "properties": {"image": IMAGE, "mask": IMAGE}}
PROPERTIES = {"masked_image": MASKED, "caption": {"type": "string"}, "semantic_map": IMAGE, "low_resolution": IMAGE}
CONDITIONS = add_image_rules({"type": "object", "properties": PROPERTIES}, ARCHITECTURE, (2, 8, 6))
LIMITS = Limits(("outputs/a",), ("inputs/a", "shared"), bucket="darkroom")
PHOTO = as_base64(image_file(np.zeros((32, 24, 3), np.uint8)))
MASK = as_base64(image_file(np.zeros((32, 24), np.uint8)))
BROKEN = as_base64(image_file(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8))[:-99])


@pytest.mark.parametrize("uri", ["s3://darkroom/inputs/a/x.png", "s3://darkroom/shared/deep/er/x.png"])
def test_a_reference_under_a_read_prefix_is_permitted(uri: str) -> None:
    check = ImageCheck(CONDITIONS, LIMITS)
    check({"masked_image": {"image": uri, "mask": MASK}})
    assert check.found_reference


@pytest.mark.parametrize(
    "uri",
    [
        "s3://darkroom/inputs/b/x.png",
        "s3://darkroom/inputs/ab/x.png",
        "s3://darkroom/inputs/a/../b/x.png",
        "s3://darkroom/inputs/a/./x.png",
        "s3://darkroom//inputs/a/x.png",
        "s3://darkroom/inputs/a//x.png",
        "s3://darkroom/inputs/a/%2e%2e/x.png",
        "s3://darkroom/inputs/a/%2E./b%2fx.png",
        "s3://darkroom/inputs/a/x.png/",
        "s3://darkroom/inputs/a/x\n.png",
        "s3://darkroom/inputs/a/x\x85.png",
        "s3://darkroom/inputs/a/" + 1016 * "x",
        "s3://darkroom/inputs/a/" + 508 * "é",
        "s3://darkroom/",
        "s3://darkroom",
        "s3://other/inputs/a/x.png",
        "s3://",
        "s3:///inputs/a/x.png",
    ],
)
def test_any_other_reference_is_refused_by_field(uri: str) -> None:
    item = {"masked_image": {"image": PHOTO, "mask": uri}, "caption": "s3://other/is no image"}
    with pytest.raises(RequestError, match=r"^items\[3\]\.masked_image\.mask: .*permitted: "):
        ImageCheck(CONDITIONS, LIMITS)(item, "items[3]")


def test_nested_images_are_found_by_the_schema() -> None:
    found: list[str] = []
    item = {"masked_image": {"image": "x", "mask": "y"}, "caption": "z", "id": "q"}
    map_images(item, CONDITIONS, lambda image, field, rule: found.append(f"{field}={image}"))
    assert found == ["masked_image.image=x", "masked_image.mask=y"]


def test_rules_follow_from_the_conditioners_of_a_release() -> None:
    properties = CONDITIONS["properties"]
    assert properties["semantic_map"][IMAGE_RULE] == ImageRule("labels", None, (16, 12), 4)
    assert properties["low_resolution"][IMAGE_RULE] == ImageRule("colour", 1)
    parts = properties["masked_image"]["properties"]
    assert parts["image"][IMAGE_RULE] == ImageRule("colour", 3, (32, 24))
    assert parts["mask"][IMAGE_RULE] == ImageRule("mask", 1, (32, 24))
    assert properties["caption"] == {"type": "string"}
    assert IMAGE_RULE not in IMAGE


def test_a_request_s_images_are_checked_in_planning_and_every_mistake_is_told() -> None:
    labels = np.full((16, 12), 3, np.uint8)
    good = {"semantic_map": as_base64(image_file(labels)), "masked_image": {"image": PHOTO, "mask": MASK}}
    assert not check_items([good], CONDITIONS, LIMITS)
    bad: list[dict[str, Any]] = [
        {"semantic_map": as_base64(image_file(np.full((16, 12), 4, np.uint8)))},
        {"semantic_map": as_base64(image_file(np.zeros((16, 12, 3), np.uint8)))},
        {"semantic_map": as_base64(image_file(np.zeros((12, 16), np.uint8)))},
        {"masked_image": {"image": as_base64(image_file(np.zeros((8, 8, 3), np.uint8))), "mask": MASK}},
        {"low_resolution": BROKEN},
        {"low_resolution": "a cat!"},
        {"low_resolution": "s3://darkroom/inputs/b/x.png"},
    ]
    with pytest.raises(RequestError) as error:
        check_items([good, *bad], CONDITIONS, LIMITS)
    for line, words in zip(
        str(error.value).splitlines(),
        [
            "items[1].semantic_map: label 4 is not allowed; permitted: an integer from 0 to 3",
            "items[2].semantic_map: an image with the channels RGB is not allowed; permitted: greyscale or palette",
            "items[3].semantic_map: an image 16 pixels wide and 12 high is not allowed; permitted: 12 wide and 16 high",
            "items[4].masked_image.image: an image 8 pixels wide and 8 high is not allowed; permitted: 24 wide and 32",
            "items[5].low_resolution: a broken file is not a readable image; permitted: PNG, JPEG, WEBP files (",
            "items[6].low_resolution: 'a cat!' is not a base64-encoded image; permitted: ",
            "items[7].low_resolution: 'inputs/b/x.png' is not allowed; permitted: under inputs/a, shared",
        ],
        strict=True,
    ):
        assert line.startswith(words)


def test_planning_decodes_a_bounded_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty files of 78 KB would be 800 million pixels; a broken one among the later ones is told by the worker."""
    decoded = []
    decode = image_files.decode_image
    monkeypatch.setattr(
        condition_images, "decode_image", lambda image, rule: decoded.append(decode(image, rule).shape[0])
    )
    large = as_base64(image_file(Image.new("L", (4096, 4096))))
    begun = time.process_time()
    check_items([{"low_resolution": large}] * 50 + [{"low_resolution": PHOTO}], CONDITIONS, LIMITS)
    assert decoded == [4096]
    assert time.process_time() - begun < 5
    with pytest.raises(RequestError, match=r"^items\[4\]\.low_resolution: .* is not a readable image"):
        check_items([{"low_resolution": large}] * 4 + [{"low_resolution": "AAAA"}], CONDITIONS, LIMITS)


def test_of_a_line_only_the_headers_of_images_are_read() -> None:
    check = ImageCheck(CONDITIONS, LIMITS)
    check({"low_resolution": BROKEN})
    with pytest.raises(RequestError, match=r"^low_resolution: .* is not a readable image"):
        check({"low_resolution": base64.b64encode(b"GIF89a" + bytes(50)).decode()})
    assert not check.found_reference
