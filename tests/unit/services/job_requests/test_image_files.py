"""Image files of tenants: which are decoded, how they are converted, and which are refused before they are unpacked."""

import base64
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.job_requests.condition_images import decode_images
from services.job_requests.image_files import MAX_PIXELS, decode_base64, decode_image
from services.job_requests.image_rules import ImageRule
from tests.support.images import as_base64, decompression_bomb, image_file

IMAGE = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
MASKED = {"type": "object", "properties": {"image": IMAGE, "mask": IMAGE}}
RGB, GREY, MASK = ImageRule("colour", 3), ImageRule("colour", 1), ImageRule("mask", 1)
LABELS = ImageRule("labels", classes=300)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("in_base64", [True, False])
def test_an_image_is_read_from_base64_or_from_bytes(file_format: str, in_base64: bool) -> None:
    body = image_file(PIXELS, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    given = as_base64(body) if in_base64 else body
    read = decode_images({"image": given, "mask": given}, MASKED, "m")
    np.testing.assert_array_equal(read["image"], PIXELS)
    np.testing.assert_array_equal(read["mask"], PIXELS)


def test_a_value_that_is_not_an_image_is_unchanged() -> None:
    assert decode_images("a red circle", {"type": "string"}, "c") == "a red circle"
    assert decode_images(3, {"type": "integer"}, "n") == 3


# -- conversions ---------------------------------------------------------------------------------


def converted(image: Image.Image, rule: ImageRule, file_format: str = "PNG", **options: Any) -> Any:
    return decode_image(image_file(image, file_format, **options), rule)


def test_every_colour_mode_becomes_rgb() -> None:
    image = Image.fromarray(PIXELS)
    grey = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(converted(image, RGB), PIXELS)
    np.testing.assert_array_equal(converted(image.convert("L"), RGB), np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(converted(image.convert("RGBA"), RGB), PIXELS)
    palette = image.quantize(16)
    np.testing.assert_array_equal(converted(palette, RGB), np.asarray(palette.convert("RGB")))
    bits = image.convert("1")
    np.testing.assert_array_equal(converted(bits, RGB), np.asarray(bits.convert("RGB")))
    inks = converted(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), RGB, "JPEG")
    assert inks.shape == (8, 8, 3)
    assert (inks.astype(int) - (255, 0, 0)).__abs__().max() < 6


def test_colour_becomes_grey_where_the_release_is_grey() -> None:
    expected = np.asarray(Image.fromarray(PIXELS).convert("L"))
    np.testing.assert_array_equal(converted(Image.fromarray(PIXELS), GREY), expected)
    np.testing.assert_array_equal(converted(Image.fromarray(PIXELS).convert("RGBA"), GREY), expected)


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    levels = [0, 0, 1, 1, 128, 255]
    np.testing.assert_array_equal(converted(Image.fromarray(deep), GREY), [levels])
    np.testing.assert_array_equal(converted(Image.fromarray(deep), RGB)[0, :, 2], levels)


def test_transparent_pixels_become_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 51, 255
    np.testing.assert_array_equal(converted(Image.fromarray(pixels), RGB)[0, :, 0], [255, 204, 0])
    np.testing.assert_array_equal(converted(Image.fromarray(pixels), ImageRule("colour", 4)), pixels)
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putdata([0, 1])
    np.testing.assert_array_equal(converted(palette, RGB, transparency=0)[0, :, 0], [255, 9])


def test_a_mask_is_grey_and_opaque() -> None:
    hole = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(converted(hole, MASK), [[255, 0]])
    np.testing.assert_array_equal(converted(hole.convert("RGBA"), MASK), [[255, 0]])
    np.testing.assert_array_equal(converted(hole.convert("P"), MASK), [[255, 0]])
    with pytest.raises(ValueError, match="a mask with transparent pixels is not allowed; permitted: an opaque one"):
        converted(Image.new("RGBA", (2, 1), (255, 255, 255, 0)), MASK)


def test_the_values_of_labels_are_classes_and_are_never_converted() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([2, 0, 1])
    np.testing.assert_array_equal(converted(palette, LABELS), [[2, 0, 1]])
    np.testing.assert_array_equal(converted(Image.fromarray(np.array([[True, False]])), LABELS), [[1, 0]])
    deep = Image.fromarray(np.array([[299, 256, 7]], np.uint16))
    np.testing.assert_array_equal(converted(deep, LABELS), [[299, 256, 7]])
    with pytest.raises(ValueError, match=r"^label 300 is not allowed; permitted: an integer from 0 to 299$"):
        converted(Image.fromarray(np.array([[300]], np.uint16)), LABELS)
    for mode in ("RGB", "RGBA", "LA"):
        with pytest.raises(ValueError, match=f"channels {mode} is not allowed; permitted: greyscale or palette"):
            converted(Image.new(mode, (2, 1)), LABELS)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_rotated_as_its_exif_data_says(file_format: str) -> None:
    """As a phone stores it: the sensor's pixels, and the orientation."""
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, :16] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x112] = 6  # to be rotated by 90 degrees clockwise
    rotated = converted(Image.fromarray(pixels), ImageRule("colour", 1, (32, 16)), file_format, exif=exif)
    assert rotated[:14].min() > 200
    assert rotated[18:].max() < 50
    with pytest.raises(ValueError, match="16 pixels wide and 32 high is not allowed; permitted: 32 wide and 16 high"):
        converted(Image.fromarray(pixels), ImageRule("colour", 1, (16, 32)), file_format, exif=exif)


def test_damaged_exif_data_is_ignored() -> None:
    np.testing.assert_array_equal(converted(Image.fromarray(PIXELS), RGB, exif=b"Exif\0\0MM\0*junk"), PIXELS)


# -- base64 --------------------------------------------------------------------------------------


def test_the_dialects_of_base64_are_read() -> None:
    body = image_file(PIXELS)
    text = as_base64(body)
    url_safe = base64.urlsafe_b64encode(body).decode()
    assert url_safe != text
    lines = "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    quoted = text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    for given in (
        text, url_safe, text.rstrip("="), url_safe.rstrip("="), lines, f" {text}\n", f"data:image/png;base64,{text}",
        f"DATA:;charset=utf-8;BASE64,{url_safe}", f"data:image/png;base64,{quoted}",
    ):  # fmt: skip
        assert decode_base64(given) == body
        np.testing.assert_array_equal(decode_images(given, IMAGE, "i"), PIXELS)


@pytest.mark.parametrize("text", ["***", "a", "é", "data:image/png,%89PNG", "data:base64", "https://a.org/x.png"])
def test_what_is_not_base64_is_refused_by_its_value(text: str) -> None:
    with pytest.raises(ValueError, match=r"^i: .* is not .*; permitted: ") as error:
        decode_images(text, IMAGE, "i")
    assert repr(text) in str(error.value)


# -- hostile files -------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [4097, 12_000, 50_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(side: int) -> None:
    body = decompression_bomb(side)
    assert len(body) < 20_000
    begun = time.process_time()
    with pytest.raises(
        ValueError, match=r"^i: an image of .* pixels is not allowed|^i: .* is not a readable image"
    ) as error:
        decode_images(body, IMAGE, "i")
    assert time.process_time() - begun < 1
    if side < 50_001:
        assert f"at most {MAX_PIXELS} pixels" in str(error.value)


def test_a_jpeg_file_of_many_scans_is_refused() -> None:
    """Each scan of 33 bytes goes over all pixels: 100,000 of them in a request would take half an hour."""
    body = image_file(Image.new("L", (4096, 4096), 128), "JPEG", progressive=True)
    assert decode_image(body, GREY).shape == (4096, 4096)
    last_scan = body[body.rindex(b"\xff\xda") : -2]
    assert len(last_scan) < 40
    begun = time.process_time()
    with pytest.raises(ValueError, match=r"^a JPEG file of \d+ scans is not allowed; permitted: at most 64 scans$"):
        decode_image(body[:-2] + last_scan * 10_000 + body[-2:], GREY)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"GIF89a" + b"\0" * 50,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
        image_file(np.zeros((9, 9), np.uint8))[:40],
        image_file(np.zeros((9, 9), np.uint8)).replace(b"IDAT", b"JUNK"),
        image_file(np.zeros((64, 64), np.uint8), "JPEG")[:-200],
        image_file(np.zeros((9, 9), np.uint8), "TIFF"),
        image_file(np.zeros((9, 9), np.uint8), "BMP"),
    ],
)
def test_files_of_other_formats_and_broken_files_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r" is not a readable image; permitted: PNG, JPEG, WEBP files") as error:
        decode_image(body, RGB)
    assert "object at 0x" not in str(error.value)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_is_decoded_or_refused(seed: int) -> None:
    random = np.random.default_rng(seed)
    for file_format in ("PNG", "JPEG", "WEBP"):
        body = bytearray(image_file(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), file_format))
        for position in random.integers(0, len(body), 4):
            body[position] = random.integers(0, 256)
        for rule in (RGB, GREY, MASK, LABELS):
            with suppress(ValueError):  # any other error would be a worker's end
                assert decode_image(bytes(body), rule).size <= MAX_PIXELS * 4
