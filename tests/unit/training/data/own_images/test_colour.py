"""Images with a colour profile are converted to sRGB."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from training.data.own_images.decoding import decode

GREEN = (60, 200, 60)


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def wide_profile() -> bytes:
    """The profile of Adobe RGB: its three primaries, and a gamma of 2.2."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.19921875 * 256)) + bytes(2)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"wide" + bytes(1 + 4 + 4 + 2 + 1 + 67),
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    offset, body, table = 128 + 4 + 12 * len(tags), b"", struct.pack(">I", len(tags))
    for key, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        table += key + struct.pack(">II", offset + len(body), len(padded))
        body += padded
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    white = fixed(0.9642) + fixed(1) + fixed(0.8249)
    return (head + bytes(12) + b"acsp" + bytes(28) + white).ljust(128, b"\0") + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(fixed, values))


def stored(image: Image.Image, profile: bytes | None, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format, icc_profile=profile)
    return file.getvalue()


def decoded(image: Image.Image, profile: bytes | None, format: str = "PNG", **options: Any) -> tuple[list[int], Any]:
    made = decode(stored(image, profile, format), **{"image_size": 8, "channels": 3, **options})
    return made.pixels[4, 4].tolist(), made.conversions


def shown() -> list[int]:
    """What a browser shows of GREEN in the wide profile."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(wide_profile()))
    image = ImageCms.profileToProfile(Image.new("RGB", (1, 1), GREEN), source, ImageCms.createProfile("sRGB"))
    assert image is not None
    found = image.getpixel((0, 0))
    assert isinstance(found, tuple)
    return list(found)


def test_a_wide_profile_is_converted_and_counted() -> None:
    assert np.abs(np.array(shown()) - GREEN).max() > 20, "the case is one"
    assert decoded(Image.new("RGB", (8, 8), GREEN), wide_profile()) == (shown(), ("colour profile",))
    assert decoded(Image.new("RGBA", (8, 8), (*GREEN, 255)), wide_profile())[0] == shown()
    clear = Image.new("RGBA", (8, 8), (*GREEN, 0))
    assert decoded(clear, wide_profile()) == ([255, 255, 255], ("colour profile", "alpha"))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *GREEN])
    assert decoded(palette, wide_profile()) == (shown(), ("colour profile", "palette"))


@pytest.mark.parametrize(
    "profile", [None, b"", b"broken", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()]
)
def test_srgb_and_unusable_profiles_change_nothing(profile: bytes | None) -> None:
    assert decoded(Image.new("RGB", (8, 8), GREEN), profile) == (list(GREEN), ())
    assert decoded(Image.new("L", (8, 8), 90), profile, channels=1) == ([90], ())


def test_a_profile_of_another_kind_of_image_is_ignored() -> None:
    assert decoded(Image.new("L", (8, 8), 90), wide_profile(), channels=1)[0] == [90]
