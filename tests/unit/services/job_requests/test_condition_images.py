"""Images in conditions: which are decoded, and which are refused before they are unpacked."""

import base64
import io
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.job_requests.condition_images import MAX_PIXELS, check_references, decode_images, map_images
from services.job_requests.schema import Limits, RequestError
from tests.support.images import decompression_bomb

IMAGE = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
MASKED = {"type": "object", "properties": {"image": IMAGE, "mask": IMAGE}}
CONDITIONS = {"type": "object", "properties": {"masked_image": MASKED, "caption": {"type": "string"}}}
LIMITS = Limits(("outputs/a",), ("inputs/a", "shared"), bucket="darkroom")


def file(pixels: Any, file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=file_format)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("in_base64", [True, False])
def test_an_image_is_read_from_base64_or_from_bytes(file_format: str, in_base64: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    body = file(pixels, "PNG") if file_format == "PNG" else lossless(pixels)
    given = base64.b64encode(body).decode() if in_base64 else body
    read = decode_images({"image": given, "mask": given}, MASKED, "m")
    np.testing.assert_array_equal(read["image"], pixels)
    np.testing.assert_array_equal(read["mask"], pixels)


def lossless(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", lossless=True)
    return buffer.getvalue()


def test_a_value_that_is_not_an_image_is_unchanged() -> None:
    assert decode_images("a red circle", {"type": "string"}, "c") == "a red circle"
    assert decode_images(3, {"type": "integer"}, "n") == 3


@pytest.mark.parametrize("side", [4097, 50_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(side: int) -> None:
    body = decompression_bomb(side)
    assert len(body) < 20_000
    begun = time.process_time()
    with pytest.raises(
        ValueError, match=f"^i: an image of {side}x{side} pixels is not allowed|^i: not a readable image"
    ) as error:
        decode_images(body, IMAGE, "i")
    assert time.process_time() - begun < 1
    if side == 4097:
        assert f"at most {MAX_PIXELS} pixels" in str(error.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"GIF89a" + b"\0" * 50,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        file(np.zeros((9, 9), np.uint8))[:40],
        file(np.zeros((9, 9), np.uint8)).replace(b"IDAT", b"JUNK"),
        file(np.zeros((9, 9), np.uint8), "TIFF"),
        file(np.zeros((9, 9), np.uint8), "BMP"),
    ],
)
def test_files_of_other_formats_and_broken_files_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a readable image; permitted: PNG, JPEG, WEBP"):
        decode_images(body, IMAGE, "i")


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_is_decoded_or_refused(seed: int) -> None:
    random = np.random.default_rng(seed)
    for file_format in ("PNG", "JPEG", "WEBP"):
        body = bytearray(file(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), file_format))
        for position in random.integers(0, len(body), 4):
            body[position] = random.integers(0, 256)
        with suppress(ValueError):  # any other error would be a worker's end
            assert decode_images(bytes(body), IMAGE, "i").size <= MAX_PIXELS * 4


@pytest.mark.parametrize("text", ["***", "aGVsbG8", "é", "data:image/png;base64,AAAA"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a base64-encoded image|not a readable image"):
        decode_images(text, IMAGE, "i")


@pytest.mark.parametrize("uri", ["s3://darkroom/inputs/a/x.png", "s3://darkroom/shared/deep/er/x.png"])
def test_a_reference_under_a_read_prefix_is_permitted(uri: str) -> None:
    check_references({"masked_image": {"image": uri, "mask": "AAAA"}}, CONDITIONS, LIMITS)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://darkroom/inputs/b/x.png",
        "s3://darkroom/inputs/ab/x.png",
        "s3://darkroom/inputs/a/../b/x.png",
        "s3://darkroom/inputs/a/./x.png",
        "s3://darkroom//inputs/a/x.png",
        "s3://darkroom/inputs/a//x.png",
        "s3://darkroom/inputs/a/x.png?versionId=1",
        "s3://darkroom/inputs/a/%2e%2e/x.png",
        "s3://darkroom/inputs/a/x\n.png",
        "s3://darkroom/inputs/a/" + 1000 * "x",
        "s3://darkroom/",
        "s3://darkroom",
        "s3://other/inputs/a/x.png",
        "s3://",
        "s3:///inputs/a/x.png",
    ],
)
def test_any_other_reference_is_refused_by_field(uri: str) -> None:
    item = {"masked_image": {"image": "AAAA", "mask": uri}, "caption": "s3://other/is no image"}
    with pytest.raises(RequestError, match=r"^items\[3\]\.masked_image\.mask: .*permitted: "):
        check_references(item, CONDITIONS, LIMITS, "items[3]")


def test_nested_images_are_found_by_the_schema() -> None:
    found: list[str] = []
    item = {"masked_image": {"image": "x", "mask": "y"}, "caption": "z", "id": "q"}
    map_images(item, CONDITIONS, lambda image, field: found.append(f"{field}={image}"))
    assert found == ["masked_image.image=x", "masked_image.mask=y"]
