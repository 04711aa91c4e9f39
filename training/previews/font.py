"""The font in which sheets name classes and captions. Loads no torch."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

FILE = "mpl-data/fonts/ttf/DejaVuSans.ttf"


@cache
def load(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that comes with matplotlib, at a height in pixels; without matplotlib, Pillow's own.

    Pillow's has no letters but those of ASCII: no umlauts, no Cyrillic, no Greek.
    """
    found = find_spec("matplotlib")
    places = [Path(place) / FILE for place in (found and found.submodule_search_locations) or ()]
    file = next((place for place in places if place.is_file()), None)
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(str(file), size)
