"""Images as files, and the contact sheet."""

import io
import uuid
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.cli import contact_sheet
from services.storage import layout
from services.worker import encoding
from training.previews.font import load

JOB = uuid.UUID("01a20623-9eb0-7e43-a7ba-68359c45a3dd")


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel_and_is_the_same_bytes_again(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, channels), dtype=np.uint8)
    body = encoding.encode_image(pixels, "png")
    assert body == encoding.encode_image(pixels, "png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))).reshape(8, 6, channels), pixels)


@pytest.mark.parametrize(("image_format", "suffix"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp")])
def test_each_format_has_its_suffix_and_opens_as_itself(image_format: str, suffix: str) -> None:
    key = layout.image_key("outputs/default", JOB, 7, image_format)
    assert key == f"outputs/default/{JOB}/images/00000007.{suffix}"
    body = encoding.encode_image(np.full((8, 8, 3), 128, np.uint8), image_format)
    assert Image.open(io.BytesIO(body)).format == image_format.upper()


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_metadata_are_in_the_file_and_change_no_pixel(image_format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    plain = encoding.encode_image(pixels, image_format)
    body = encoding.encode_image(pixels, image_format, metadata={"seed": 7})
    assert body == encoding.encode_image(pixels, image_format, metadata={"seed": 7})
    with Image.open(io.BytesIO(body)) as image, Image.open(io.BytesIO(plain)) as other:
        text = image.info["darkroom"] if image_format == "png" else image.getexif()[encoding.IMAGE_DESCRIPTION]
        assert text == '{"seed": 7}'
        assert np.array_equal(np.asarray(image), np.asarray(other))


def test_a_lower_quality_is_a_smaller_file_and_a_thumbnail_keeps_the_ratio() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    sizes = [len(encoding.encode_image(pixels, "jpeg", quality=quality)) for quality in (10, 50, 95)]
    assert sizes == sorted(sizes)
    assert Image.open(io.BytesIO(encoding.encode_image(pixels, "png", longest=16))).size == (8, 16)


def test_contact_sheet_has_a_row_an_item_and_gaps_where_images_miss() -> None:
    def image(level: int) -> bytes:
        return encoding.encode_image(np.full((4, 4, 1), level, np.uint8), "png")

    sheet = contact_sheet.contact_sheet([(0, image(0)), (3, image(50)), (4, image(100))], columns=3)
    pixels = np.asarray(sheet)[:, :, 0]
    assert pixels.shape == (2 * 6 + 2, 3 * 6 + 2)
    assert pixels[3, 3] == 0
    assert pixels[3, 9] == 255  # index 1 is missing
    assert pixels[9, 3] == 50
    assert pixels[9, 9] == 100


def test_a_sheet_of_a_grid_names_its_rows_and_columns() -> None:
    axes: list[list[Any]] = [["solver", ["ddim", "heun"]], ["steps", [5, 10, 20]]]
    rows, columns = contact_sheet.axis_labels(axes, rows=2, per_item=2)
    assert rows == ["solver ddim", "solver heun"]
    assert columns == ["steps 5", "", "steps 10", "", "steps 20", ""]
    assert contact_sheet.axis_labels(axes, rows=4, per_item=1)[0][2:] == ["item 1 solver ddim", "item 1 solver heun"]
    assert contact_sheet.axis_labels([["steps", [5]]], rows=2, per_item=1)[0] == ["item 0", "item 1"]
    plain = Image.new("RGB", (200, 60), "white")
    labelled = contact_sheet.label(plain, rows, columns)
    dark = np.asarray(labelled.convert("L")) < 128
    left, top = labelled.width - plain.width, labelled.height - plain.height
    assert dark[top:, :left].any()
    assert dark[:top, left:].any()
    assert not dark[top:, left:].any()


def test_a_label_that_is_wider_than_its_column_goes_on_in_another_line() -> None:
    """Two releases whose names begin alike would otherwise have one label."""
    font = load(contact_sheet.FONT_SIZE)
    lines = contact_sheet.wrap("release digits-shortcut@1", 64, font)
    assert (lines[0], len(lines) <= contact_sheet.MOST_LINES) == ("release", True)
    assert "".join(lines).replace(" ", "") == "releasedigits-shortcut@1"
    assert all(font.getlength(line) <= 64 for line in lines)
    assert contact_sheet.wrap("steps 5", 64, font) == ["steps 5"]
    assert contact_sheet.wrap("steps 5", 0, font) == []
    plain = Image.new("RGB", (66, 66), "white")
    one, several = (contact_sheet.label(plain, ["a"], [text]) for text in ("steps 5", "release digits-shortcut@1"))
    assert several.height - one.height == (len(lines) - 1) * (contact_sheet.FONT_SIZE + contact_sheet.GAP)


def test_rows_may_have_labels_where_columns_have_none() -> None:
    plain = contact_sheet.contact_sheet([(0, encoding.encode_image(np.zeros((16, 16, 1), np.uint8), "png"))], columns=1)
    labelled = np.asarray(contact_sheet.label(plain, ["boot"], [""]))
    left = labelled.shape[1] - plain.width
    assert labelled[:, :left].min() < 128
    assert (labelled[: labelled.shape[0] - plain.height] == 255).all()
