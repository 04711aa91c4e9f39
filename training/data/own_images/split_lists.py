"""Reads the lists of a split, such as train.txt: an image in each line, with a label or with numbers behind it.

images/1.jpg          as YOLO's programs and many others write
2008_000001           Pascal VOC
apple_pie/1005649     Food-101
images/1.jpg 3        Caffe: the label
Abyssinian_1 1 1 1    Oxford pets: numbers, which are not read
"""

import re
from collections.abc import Iterator, Mapping

from training.data.own_images.names import is_image
from training.data.own_images.records import decode_text

NUMBERED = re.compile(r"(.*?\S)(\s+-?\d+){2,}|([^\s.]+)\s+-?\d+")


def read_split_list(data: bytes, origin: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the place and the image of each line, and its label. Lines that begin with # are comments."""
    for number, line in enumerate(decode_text(data, origin).split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        first, _, label = line.partition(" ")
        if match := NUMBERED.fullmatch(line):
            row = {"file_name": match[1] or match[3]}
        elif is_image(first) and label.strip() and not is_image(line):
            row = {"file_name": first, "label": label.strip()}
        else:
            row = {"file_name": line}
        yield f"{origin}:{number}", row
