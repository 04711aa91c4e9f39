"""Decodes one of the user's images: from the bytes of its file to square pixels, or to the reason it is unusable."""

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from training.data.aspect_buckets import choose_bucket, crop_to
from training.data.own_images.colour import to_srgb
from training.data.own_images.crops import Size, crop_box, resize
from training.errors import DarkroomError

# No others, because Pillow runs external programs for some.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
MAGIC = re.compile(
    rb"\x89PNG\r\n|\xff\xd8\xff|RIFF....WEBP|BM|II\*\0|MM\0\*|GIF8[79]a|....ftyp(avif|avis|heic|heix|mif1|msf1)"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|P[1-6]\s",
    re.DOTALL,
)  # the first bytes of these formats
OTHER_FILES = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), kind, reason)
    for pattern, kind, reason in (
        (rb"....ftyp(heic|heix|mif1|msf1)", "unsupported", "is HEIC, which needs pillow-heif: pip install pillow-heif"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "unsupported", "is JPEG XL: convert it to PNG"),
        (rb"\s*(<\?xml.{0,400})?<svg|8BPS|%PDF", "unsupported", "is SVG, PSD or PDF: convert it to PNG"),
        (rb"version https://git-lfs", "a pointer of Git LFS", "is a pointer of Git LFS: run git lfs pull"),
        (rb"\s*<(!doctype html|html)\b", "a web page", "is a web page, perhaps of an error: download it again"),
    )
)  # first bytes, and what to do
MAX_PIXELS = 178_000_000  # a file of a few kilobytes can claim more and exhaust memory
KEPT_AREA = 0.25  # share of an object's area that must be in the crop to keep it
TOLERANCE = 1.0  # pixels that a box may extend beyond its image, because labelling tools round
DRAFT_GAP = 3  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that leaves this many times image_size

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation


@dataclass(frozen=True)
class Problem:
    """Why an image cannot be used: a short kind, by which problems are counted, and a reason."""

    kind: str
    reason: str


class BadImageError(DarkroomError):
    """An image cannot be used."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind} ({reason})")
        self.problem = Problem(kind, reason)


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image. pixels: [S, S, C] uint8. size: of the file's image, upright. conversions: kinds applied.

    whole: the image in the shape of its bucket, [H, W, C] uint8, where there are buckets. bucket: its number.
    """

    pixels: NDArray[np.uint8]
    size: Size
    conversions: tuple[str, ...]
    whole: NDArray[np.uint8] | None = None
    bucket: int = 0


@dataclass(frozen=True)
class DecodedPlane:
    """A decoded map or mask. pixels: [S, S] uint8. size: of the file's image."""

    pixels: NDArray[np.uint8]
    size: Size


@contextmanager
def ignore_pillow_warnings() -> Iterator[None]:
    """Silence Pillow's warnings, whose causes are counted or refused here. Not safe to enter on several threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def looks_like_image(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is in one of the formats."""
    return MAGIC.match(head) is not None


@cache
def formats() -> tuple[str, ...]:
    """Return the formats that are read: HEIC too if the package pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


def decode(
    data: bytes, *, image_size: int, channels: int, background: str = "white", buckets: Sequence[Size] = ()
) -> DecodedImage:
    """Turn upright, convert to `channels` (1 grey, 3 RGB), scale the shorter side to `image_size`, crop the centre.

    Colours are converted to sRGB, alpha is blended with `background`, and of an animation the first frame is used.
    buckets: shapes of which the image is put into the nearest one too. Raises BadImageError.
    """
    with open_image(data, formats()) as image:
        size = image.size
        check_size(size, image_size)
        conversions = ["16-bit"] if has_sixteen_bits(image) else []
        if getattr(image, "is_animated", False) and image.format != "MPO":  # an MPO is a photo and its previews
            conversions.append("animated")
        scale = 1.0  # of what is decoded
        if image.format in ("JPEG", "MPO"):
            drafted = image.draft(None, (DRAFT_GAP * image_size, DRAFT_GAP * image_size))
            scale = drafted[1][2] / size[0] if drafted else 1.0
        image.load()
        turned = orientation(image)
        if turned in TURNS:
            conversions.append("rotated")
            image = image.transpose(TURNS[turned])
            size = size[::-1] if turned >= 5 else size
        if min(size) < image_size:
            conversions.append("enlarged")
        image = to_mode(to_srgb(image, conversions), channels, conversions, background)
        pixels = resize(image, crop_box(size), scale, (image_size, image_size), channels)
        if not buckets:
            return DecodedImage(pixels, size, tuple(conversions))
        bucket = choose_bucket(size, buckets)
        whole = resize(image, crop_to(size, buckets[bucket]), scale, buckets[bucket], channels)
    return DecodedImage(pixels, size, tuple(conversions), whole, bucket)


def decode_map(data: bytes, *, image_size: int) -> DecodedPlane:
    """Return the class of each pixel of a grey or palette PNG, scaled by nearest neighbour. Raises BadImageError."""
    with open_image(data, ("PNG",), kind="map") as image:
        check_pixels(image.size)
        packed = {"L;2": 85, "L;4": 17}.get(raw_mode(image), 1)  # Pillow spreads these over 0..255
        image.load()
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
            raise BadImageError("map", f"is {image.mode}; a map is a grey or palette PNG of class numbers")
        values = np.asarray(image).astype(np.int64) // packed
    if values.max() > 255:
        raise BadImageError("map", f"holds the class {values.max()}; class numbers are 0 to 255")
    return plane(values.astype(np.uint8), image_size)


def decode_mask(data: bytes, *, image_size: int) -> DecodedPlane:
    """Return 255 in the hole, where the PNG is white, and 0 elsewhere; nearest neighbour. Raises BadImageError."""
    with open_image(data, ("PNG",), kind="mask") as image:
        check_pixels(image.size)
        image.load()
        values = np.asarray(to_mode(image, 1, []))
    if 0 < values.max() < 128:
        raise BadImageError("mask", f"is nowhere brighter than {values.max()} of 255; the hole has to be white")
    return plane(np.where(values >= 128, np.uint8(255), np.uint8(0)), image_size)


def plane(values: NDArray[np.uint8], image_size: int) -> DecodedPlane:
    """Return values [H, W] scaled and cropped like their image."""
    image = Image.fromarray(values)
    scaled = image.resize((image_size, image_size), Image.Resampling.NEAREST, box=crop_box(image.size))
    return DecodedPlane(np.asarray(scaled), image.size)


def share_box(box: Sequence[float], size: Size) -> list[float] | None:
    """Convert a box [x0, y0, x1, y1] from pixels of an image of `size` to shares of its crop.

    Returns None if too little of the box is left. Raises BadImageError for a malformed box or one outside the image.
    """
    x0, y0, x1, y1 = box
    if not all(math.isfinite(edge) for edge in box) or x0 >= x1 or y0 >= y1:
        raise BadImageError("box", f"the box {list(box)} is not [x0, y0, x1, y1] with x0 < x1 and y0 < y1")
    width, height = size
    if min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE:
        raise BadImageError("box", f"the box {list(box)} lies outside the image of {width}x{height} pixels")
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    left, top, right, bottom = crop_box(size)
    inner = max(x0, left), max(y0, top), min(x1, right), min(y1, bottom)
    sides = inner[2] - inner[0], inner[3] - inner[1]
    if min(sides) <= 0 or sides[0] * sides[1] < KEPT_AREA * (x1 - x0) * (y1 - y0):
        return None
    side = right - left
    return [round((edge - start) / side, 6) for edge, start in zip(inner, (left, top, left, top), strict=True)]


@contextmanager
def open_image(data: bytes, permitted: tuple[str, ...], kind: str | None = None) -> Iterator[Image.Image]:
    """Open the image in `data` without decoding it. Any error of decoding becomes a BadImageError of `kind`."""
    if not data:
        raise BadImageError(kind or "empty", "the file has 0 bytes")
    try:
        with Image.open(io.BytesIO(data), formats=permitted) as image:
            yield image
    except BadImageError as error:
        raise BadImageError(kind or error.problem.kind, error.problem.reason) from None
    except (Image.DecompressionBombError, MemoryError):
        raise BadImageError(kind or "huge", f"has more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        for pattern, what, reason in OTHER_FILES:
            if pattern.match(data):
                raise BadImageError(kind or what, reason) from None
        raise BadImageError(kind or "not a picture", f"is none of {', '.join(permitted)}") from None
    except Exception as error:  # damaged files make the decoders raise nearly anything
        reason = str(error) or type(error).__name__
        raise BadImageError(kind or ("truncated" if "truncated" in reason else "damaged"), reason) from None


def check_size(size: Size, image_size: int) -> None:
    """Raise BadImageError for an image that is too large to decode or too small to enlarge."""
    check_pixels(size)
    if 2 * min(size) < image_size:
        raise BadImageError("tiny", f"is {size[0]}x{size[1]}; permitted: at least half of data.image_size={image_size}")


def check_pixels(size: Size) -> None:
    """Raise BadImageError for an image that is too large to decode."""
    if size[0] * size[1] > MAX_PIXELS:
        raise BadImageError("huge", f"is {size[0]}x{size[1]}; permitted: up to {MAX_PIXELS:,} pixels")


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # malformed EXIF data does not affect the pixels
        return 1


def raw_mode(image: Image.Image) -> str:
    """Return how the file stores a pixel, in Pillow's terms; known only before decoding."""
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def has_sixteen_bits(image: Image.Image) -> bool:
    """Return whether the file stores more than 8 bits per channel."""
    return image.mode.startswith("I") or ";16" in raw_mode(image)


def to_mode(image: Image.Image, channels: int, conversions: list[str], background: str = "white") -> Image.Image:
    """Return a decoded image as "L" or "RGB" without alpha; the kinds of conversion are added to `conversions`."""
    if image.mode.startswith("I"):
        image = to_eight_bits(image)
    if image.mode == "F":
        raise BadImageError("unsupported", "holds floating-point numbers, whose range is unknown")
    grey = image.mode in ("1", "L", "LA", "La")
    conversions += [kind for kind, modes in (("palette", ("P", "PA")), ("cmyk", ("CMYK",))) if image.mode in modes]
    if grey and channels == 3:
        conversions.append("grey")
    elif not grey and channels == 1 and not is_grey(image):
        conversions.append("colour")
    if image.has_transparency_data:
        conversions.append("alpha")
        coloured = image.convert("RGBA")
        image = Image.new("RGB", image.size, background)
        image.paste(coloured, mask=coloured)
    return image.convert("L" if channels == 1 else "RGB")


def is_grey(image: Image.Image) -> bool:
    """Return whether the three channels of a decoded image are equal in every pixel, whatever its alpha."""
    if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I"):
        return True
    pixels = np.asarray(image.convert("RGB"))
    return bool((pixels == pixels[..., :1]).all())


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Rescale 0..65535 to 0..255, mode "L"; Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError("unsupported", "holds numbers outside 0 to 65535")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
