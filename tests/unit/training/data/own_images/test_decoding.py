"""One image: every kind of file is converted properly, and what cannot be used says why."""

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from training.data.own_images import decoding
from training.data.own_images.crops import crop_box
from training.data.own_images.decoding import BadImageError, decode, decode_map, decode_mask, share_box

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def stored(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def colour(data: bytes, channels: int = 3) -> list[int]:
    """The middle pixel, once decoded to 8x8."""
    pixels = decode(data, image_size=8, channels=channels).pixels
    assert pixels.shape == (8, 8, channels)
    assert pixels.dtype == np.uint8
    return [int(value) for value in pixels[4, 4]]


def problem(data: bytes, image_size: int = 8) -> tuple[str, str]:
    with pytest.raises(BadImageError) as caught, decoding.ignore_pillow_warnings():
        decode(data, image_size=image_size, channels=3)
    return caught.value.problem.kind, caught.value.problem.reason


def kinds(data: bytes, channels: int = 3) -> tuple[str, ...]:
    return decode(data, image_size=8, channels=channels).conversions


def test_a_picture_of_the_right_size_stays_as_it_is() -> None:
    image = noise(8, 8)
    picture = decode(stored(image), image_size=8, channels=3)
    assert np.array_equal(picture.pixels, np.asarray(image))
    assert (picture.size, picture.conversions) == ((8, 8), ())


@pytest.mark.parametrize("size", [(13, 8), (8, 13)])
def test_the_centre_is_cropped_without_blurring(size: tuple[int, int]) -> None:
    image = noise(*size)
    left, top, right, bottom = crop_box(size)
    assert np.array_equal(
        decode(stored(image), image_size=8, channels=3).pixels, np.asarray(image)[top:bottom, left:right]
    )


def test_the_shorter_side_is_scaled_with_antialiasing() -> None:
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the result can show: grey, where picking pixels would leave stripes
    pixels = decode(stored(Image.fromarray(stripes)), image_size=8, channels=3).pixels
    assert np.abs(pixels.astype(int) - 127).max() < 12


def test_a_large_jpeg_comes_out_as_if_it_had_been_decoded_in_full() -> None:
    y, x = np.mgrid[0:600, 0:901]
    smooth = np.stack([128 + 100 * np.sin(x / 90), 128 + 100 * np.cos(y / 70), 0 * x + 90], axis=2).astype(np.uint8)
    data = stored(Image.fromarray(smooth), "JPEG", quality=95)
    picture = decode(data, image_size=32, channels=3)
    full = Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.LANCZOS, box=crop_box((901, 600)))
    assert picture.size == (901, 600)
    assert np.abs(picture.pixels.astype(int) - np.asarray(full)).max() <= 2


def test_cmyk_jpeg() -> None:
    data = stored(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(np.array(colour(data)) - RED).max() < 6
    assert kinds(data) == ("cmyk",)


def test_alpha_is_laid_on_white() -> None:
    assert colour(stored(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))) == [255, 255, 255]
    assert colour(stored(Image.new("RGBA", (8, 8), (255, 0, 0, 128)))) == [255, 127, 127]
    assert colour(stored(Image.new("LA", (8, 8), (0, 255)))) == [0, 0, 0]
    assert colour(stored(Image.new("LA", (8, 8), (0, 0)))) == [255, 255, 255]
    assert colour(stored(Image.new("LA", (8, 8), (0, 0))), channels=1) == [255]
    assert kinds(stored(Image.new("RGBA", (8, 8)))) == ("alpha",)
    assert kinds(stored(Image.new("LA", (8, 8)))) == ("grey", "alpha")


def test_grey_that_is_stored_as_colour_loses_nothing() -> None:
    assert kinds(stored(Image.new("RGB", (8, 8), (9, 9, 9))), channels=1) == ()
    assert kinds(stored(Image.new("RGB", (8, 8), (9, 9, 8))), channels=1) == ("colour",)


def test_alpha_is_laid_on_a_given_colour() -> None:
    data = stored(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
    assert decode(data, image_size=8, channels=3, background="#102030").pixels[0, 0].tolist() == [16, 32, 48]


def palette_image(index: int) -> Image.Image:
    image = Image.new("P", (8, 8), index)
    image.putpalette([*RED, *GREEN])
    return image


def test_palettes_with_and_without_transparency() -> None:
    assert colour(stored(palette_image(1))) == list(GREEN)
    assert kinds(stored(palette_image(1))) == ("palette",)
    transparent = stored(palette_image(1), transparency=1)
    assert colour(transparent) == [255, 255, 255]
    assert kinds(transparent) == ("palette", "alpha")
    assert colour(stored(palette_image(0), transparency=1)) == list(RED)
    assert colour(stored(palette_image(0), transparency=bytes([128, 255]))) == [255, 127, 127]


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (300, 1), (32768, 128), (65535, 255)])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut_off(value: int, expected: int, format: str) -> None:
    data = stored(Image.fromarray(np.full((8, 8), value, np.uint16)), format)
    assert colour(data, channels=1) == [expected]
    assert colour(data) == [expected] * 3
    assert "16-bit" in kinds(data)


def png(width: int, height: int, bits: int, colour_type: int, raw: bytes) -> bytes:
    """A PNG that Pillow cannot write itself."""
    head = width.to_bytes(4) + height.to_bytes(4) + bytes([bits, colour_type, 0, 0, 0])
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    body = b"".join(len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def test_sixteen_bit_colour() -> None:
    row = b"\0" + bytes([0xFF, 0xFF, 0x80, 0x00, 0x00, 0x10]) * 8
    data = png(8, 8, 16, 2, row * 8)
    assert colour(data) == [255, 128, 0]
    assert kinds(data) == ("16-bit",)


def test_grey_and_black_and_white() -> None:
    assert colour(stored(Image.new("L", (8, 8), 77))) == [77] * 3
    assert colour(stored(Image.new("1", (8, 8), 1))) == [255] * 3
    assert kinds(stored(Image.new("L", (8, 8), 77))) == ("grey",)
    assert kinds(stored(Image.new("L", (8, 8), 77)), channels=1) == ()
    assert colour(stored(Image.new("RGB", (8, 8), GREEN)), channels=1) == [150]
    assert kinds(stored(Image.new("RGB", (8, 8), GREEN)), channels=1) == ("colour",)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_upright(format: str) -> None:
    lying = np.zeros((16, 32, 3), np.uint8)
    lying[:, :16] = RED  # left, which orientation 6 (turn clockwise) puts on top
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode(stored(Image.fromarray(lying), format, exif=exif), image_size=8, channels=3)
    assert picture.size == (16, 32)
    assert ("rotated" in picture.conversions) == (format != "TIFF")  # Pillow turns those itself
    top, bottom = picture.pixels[0, 4].astype(int), picture.pixels[7, 4].astype(int)
    assert top[0] > 200
    assert bottom[0] < 40


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = stored(noise(8, 8), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode(data, image_size=8, channels=3).pixels, np.asarray(upright))


def test_exif_that_cannot_be_read_harms_nothing() -> None:
    data = stored(Image.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with decoding.ignore_pillow_warnings():
        assert colour(data)[0] > 250


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), paint) for paint in (RED, GREEN, BLUE)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = stored(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert colour(data) == list(RED)
    assert "animated" in kinds(data)


def test_a_small_picture_is_enlarged_and_a_tiny_one_refused() -> None:
    assert kinds(stored(noise(20, 4))) == ("enlarged",)
    assert problem(stored(noise(20, 3))) == ("tiny", "is 20x3; permitted: at least half of data.image_size=8")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_an_error(format: str, share: float) -> None:
    data = stored(noise(64, 64), format)
    kind, reason = problem(data[: int(share * len(data))], image_size=32)
    assert kind in ("truncated", "damaged")
    assert reason


def test_what_is_no_picture_is_an_error() -> None:
    assert problem(b"") == ("empty", "the file has 0 bytes")
    assert problem(b"not found")[0] == "not a picture"
    assert problem(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")[0] == "not a picture"
    data = bytearray(stored(noise(64, 64)))
    data[60:200] = bytes(140)
    assert problem(bytes(data))[0] in ("damaged", "truncated")


def test_a_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = png(20_000, 20_000, 1, 0, bytes(2501 * 20_000))
    assert len(bomb) < 100_000
    monkeypatch.setattr(Image.Image, "resize", None)
    assert problem(bomb)[0] == "huge"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # whatever else the process permits
    assert problem(bomb)[0] == "huge"


def test_a_zip_bomb_in_a_text_chunk_is_refused() -> None:
    information = PngInfo()
    information.add_text("k", "a" * 70_000_000, zip=True)
    assert problem(stored(Image.new("RGB", (8, 8)), pnginfo=information))[0] == "damaged"


def test_floating_point_numbers_have_no_range() -> None:
    assert problem(stored(Image.new("F", (8, 8), 0.5), "TIFF"))[0] == "unsupported"
    assert problem(stored(Image.new("I", (8, 8), 70_000), "TIFF"))[0] == "unsupported"


def test_boxes_become_shares_of_the_crop() -> None:
    assert share_box([0, 0, 8, 8], (8, 8)) == [0, 0, 1, 1]
    assert share_box([50, 10, 75, 60], (200, 100)) == [0, 0.1, 0.25, 0.6]  # the crop begins at 50
    assert share_box([40, 0, 100, 100], (200, 100)) == [0, 0, 0.5, 1], "what lies outside the crop is cut off"
    assert share_box([-0.9, 0, 4, 8.9], (8, 8)) == [0, 0, 0.5, 1], "a pixel beyond the image is rounding"


def test_an_object_of_which_little_is_left_is_dropped() -> None:
    assert share_box([0, 0, 50, 50], (200, 100)) is None
    assert share_box([20, 0, 60, 100], (200, 100)) == [0, 0, 0.1, 1]  # just a quarter
    assert share_box([19, 0, 60, 100], (200, 100)) is None
    assert share_box([-1, 0, 0, 8], (8, 8)) is None


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([0, 0, 9.5, 8], "lies outside the image of 8x8 pixels"),
        ([-2, 0, 4, 8], "lies outside"),
        ([100, 100, 120, 120], "lies outside"),
        ([4, 0, 4, 8], "is not"),
        ([0, 5, 4, 2], "is not"),
        ([0, 0, float("nan"), 2], "is not"),
        ([0, 0, float("inf"), 2], "is not"),
    ],
)
def test_a_box_that_is_none_is_bad(box: list[float], reason: str) -> None:
    with pytest.raises(BadImageError, match=reason) as caught:
        share_box(box, (8, 8))
    assert caught.value.problem.kind == "box"


def test_maps_are_scaled_by_the_nearest_pixel_and_cropped_like_their_picture() -> None:
    values = np.kron(np.array([[1, 7, 200, 3], [4, 5, 6, 255]]), np.ones((8, 8))).astype(np.uint8)  # 32x16
    plane = decode_map(stored(Image.fromarray(values)), image_size=4)
    assert plane.size == (32, 16)
    assert plane.pixels.tolist() == [[7, 7, 200, 200]] * 2 + [[5, 5, 6, 6]] * 2


def write_bits(bits: int) -> bytes:
    if bits == 1:
        return stored(Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8) * 255).convert("1"))
    packed = {2: [0b00_01_0000, 0b01_00_0000], 4: [0x01, 0x10]}[bits]
    return png(2, 2, bits, 0, b"".join(bytes([0, byte]) for byte in packed))


@pytest.mark.parametrize("make", [lambda: write_bits(1), lambda: write_bits(2), lambda: write_bits(4)])
def test_class_numbers_of_few_bits_are_not_spread_over_the_greys(make: Callable[[], bytes]) -> None:
    assert decode_map(make(), image_size=2).pixels.tolist() == [[0, 1], [1, 0]]


def test_a_palette_map_holds_indices_and_a_sixteen_bit_map_small_numbers() -> None:
    assert decode_map(stored(palette_image(1)), image_size=2).pixels.tolist() == [[1, 1], [1, 1]]
    small = Image.fromarray(np.full((4, 4), 9, np.uint16))
    assert decode_map(stored(small), image_size=2).pixels.tolist() == [[9, 9], [9, 9]]
    with pytest.raises(BadImageError, match="holds the class 256; class numbers are 0 to 255"):
        decode_map(stored(Image.fromarray(np.full((4, 4), 256, np.uint16))), image_size=2)


@pytest.mark.parametrize("data", [b"", b"no", stored(noise(8, 8)), stored(noise(8, 8), "JPEG")])
def test_what_is_no_map(data: bytes) -> None:
    with pytest.raises(BadImageError) as caught:
        decode_map(data, image_size=2)
    assert caught.value.problem.kind == "map"


def test_the_hole_of_a_mask_is_white() -> None:
    values = np.array([[0, 255], [100, 200]], np.uint8)
    assert decode_mask(stored(Image.fromarray(values)), image_size=2).pixels.tolist() == [[0, 255], [0, 255]]
    assert decode_mask(stored(Image.new("1", (4, 4), 1)), image_size=2).pixels.tolist() == [[255, 255]] * 2
    assert decode_mask(stored(Image.new("RGB", (4, 4), "white")), image_size=2).pixels.min() == 255
    assert decode_mask(stored(Image.new("L", (4, 4), 0)), image_size=2).pixels.max() == 0
    with pytest.raises(BadImageError, match="nowhere brighter than 1 of 255; the hole has to be white"):
        decode_mask(stored(Image.new("L", (4, 4), 1)), image_size=2)
