"""Reads a record: a line of metadata, a row of a table or a sidecar about one image."""

import codecs
import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from training.data.image_set import DataError
from training.data.own_images.names import SPLITS, clean, split_of_word

FILE_FIELDS = (
    *("file_name", "filename", "file", "image", "img", "path", "image_path", "file_path", "filepath", "image_file"),
    *("image_name", "filepaths", "filenames", "image_filename", "image_file_name", "imagename", "img_name", "img_path"),
    *("image_index", "image_id", "imageid", "id"),
)
TEXT_FIELDS = ("text", "caption", "prompt", "description", "captions", "alt_text", "sentence", "comment", "tags")
LABEL_FIELDS = (
    *("label", "class", "class_name", "label_name", "classname", "category", "class_label", "labels"),
    *("target", "species", "breed", "class_id", "classid"),
)
SPLIT_FIELDS = ("split", "data_set", "subset", "partition")
LABEL_WORDS = ("class_name", "label_name", "classname")  # of a label that another field has as a number
PARTITIONS = {"0": "train", "1": "validation", "2": "test"}  # of a field called partition, as CelebA has it
OTHER_FIELDS = ("boxes", "map", "mask")
WHOLE = re.compile(r"^(-?\d+)\.0$")
BOX_LINES = re.compile(r"(\d+([ \t]+-?\d*\.?\d+(e-?\d+)?){4,}\s*)+", re.IGNORECASE)  # as YOLO's programs write
MARKS = (  # the longer first
    (codecs.BOM_UTF8, "utf-8-sig"),
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)

Label = str | int


@dataclass(frozen=True)
class Annotation:
    """The annotation of an image. boxes: (label, [x0, y0, x1, y1] in pixels). map, mask: names of files."""

    text: str | None = None
    label: Label | None = None
    boxes: tuple[tuple[Label, tuple[float, ...]], ...] | None = None
    map: str | None = None
    mask: str | None = None
    split: str | None = None


def merge(first: Annotation, second: Annotation) -> Annotation:
    """Return the first annotation, with its missing fields from the second."""
    values = {field.name: getattr(first, field.name) for field in fields(Annotation)}
    return Annotation(**{name: getattr(second, name) if value is None else value for name, value in values.items()})


def parse_object(line: str, where: str) -> dict[str, Any]:
    """Parse a JSON object. Raises DataError."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"data.root: {where} is not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise DataError(f"data.root: {where} is not a JSON object")
    return raw


def decode_text(data: bytes, origin: str) -> str:
    """Decode text in UTF-8 or UTF-16, or in UTF-32 with a byte order mark. Raises DataError."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data:
        encoding = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"data.root: {origin} is not UTF-8 (byte {error.start}); convert it, as in: iconv -f WINDOWS-1252 -t UTF-8"
        ) from None


def parse_annotation(raw: Mapping[str, Any], where: str, folder: str) -> Annotation:
    """Check the fields of a record. Unknown fields are ignored, and null means missing. Raises DataError."""
    raw = rename_fields(raw)
    text = text_field(raw, "text", where)
    split = text_field(raw, "split", where)
    if split is not None and split_of_word(split) is None:
        raise DataError(f"data.root: {where}: split {split!r} is not allowed; permitted: {', '.join(SPLITS)}")
    planes = {field: text_field(raw, field, where) for field in ("map", "mask")}
    return Annotation(
        text=text,
        label=label_of(raw.get("label"), where, "label"),
        boxes=boxes_of(raw["boxes"], where) if raw.get("boxes") is not None else None,
        split=split_of_word(split) if split else None,
        **{field: join_name(folder, name, where) if name else None for field, name in planes.items()},
    )


def rename_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its text, label and split under these names.

    Others write them as caption, class or Label, for example. Of those only words count, whole numbers as labels, and
    words for splits as splits. Of several captions in a list the first counts; tags are joined. The name of a class
    takes precedence over its number.
    """
    plain = {plain_name(key): value for key, value in raw.items()}
    found: dict[str, Any] = {**plain, **raw}
    for names in (TEXT_FIELDS, LABEL_FIELDS, SPLIT_FIELDS):
        first = raw.get(names[0])
        if first not in (None, "") and not isinstance(first, list):
            continue
        for name in names:
            value = plain.get(name)
            if isinstance(value, list) and value and isinstance(value[0], str | int):
                value = value[0] if names is TEXT_FIELDS or len(value) == 1 else value
            if name == "tags" and isinstance(plain.get(name), list):
                value = ", ".join(tag for tag in plain[name] if isinstance(tag, str))
            if name == "partition":
                value = PARTITIONS.get(str(value).strip(), value)
            if names is SPLIT_FIELDS and not (isinstance(value, str) and split_of_word(value)):
                continue
            if (isinstance(value, str) and value.strip()) or (names is LABEL_FIELDS and type(value) is int):
                found[names[0]] = value
                break
    label = found.get("label")
    if type(label) is int or (isinstance(label, str) and is_number(label.strip())):
        words = (value for name in LABEL_WORDS if isinstance(value := plain.get(name), str) and value.strip())
        found["label"] = next(words, label)
    return found


@lru_cache(maxsize=4096)
def plain_name(field: str) -> str:
    """Return the name of a field in lower case, with _ for spaces and hyphens."""
    return re.sub(r"[\s-]+", "_", field.strip().lower())


def unused_fields(row: Mapping[str, Any]) -> list[str]:
    """Return the fields of a row of which nothing is read, also those with several labels."""
    used = {*FILE_FIELDS, *TEXT_FIELDS, *LABEL_FIELDS, *SPLIT_FIELDS, *OTHER_FIELDS, ""}
    several = {
        field for field, value in row.items() if isinstance(value, list) and len(value) > 1
        and plain_name(field) in LABEL_FIELDS
    }  # fmt: skip
    unused = (field for field in row if field in several or plain_name(field) not in used)
    return [f"{field} (several labels)" if field in several else field for field in unused]


def has_split(row: Mapping[str, Any]) -> bool:
    """Return whether a row says something of a split, in whatever words."""
    return any(str(value or "").strip() for field, value in row.items() if plain_name(field) in SPLIT_FIELDS)


def file_field(fields: Iterable[str]) -> str | None:
    """Return the field that names the image of a record, or None."""
    by_plain_name = {plain_name(field): field for field in fields}
    return next((by_plain_name[name] for name in FILE_FIELDS if name in by_plain_name), None)


def text_field(raw: Mapping[str, Any], field: str, where: str) -> str | None:
    """Return a field's text, stripped, or None if it is empty. Raises DataError."""
    value = raw.get(field)
    if value is not None and not isinstance(value, str):
        raise DataError(f"data.root: {where}: {field} is {json.dumps(value)[:60]}; it must be a string")
    return check_unicode(value, where).strip() or None if value else None


def label_of(value: Any, where: str, field: str) -> Label | None:
    """Return a label, a name or a number. Raises DataError."""
    if isinstance(value, str):
        return WHOLE.sub(r"\1", check_unicode(value, where).strip()) or None
    if isinstance(value, float) and value.is_integer():  # as pandas writes whole numbers where some are missing
        return int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise DataError(f"data.root: {where}: {field} is {json.dumps(value)[:60]}; it must be a string or an integer")


def boxes_of(value: Any, where: str) -> tuple[tuple[Label, tuple[float, ...]], ...]:
    """Return the boxes of [{"label": ..., "box": [x0, y0, x1, y1]}, ...]. Raises DataError."""
    boxes = []
    for one in value if isinstance(value, list) else [value]:
        edges = one.get("box") if isinstance(one, dict) else None
        label = label_of(one.get("label"), where, "a box's label") if isinstance(one, dict) else None
        if label is None or edges is None or not is_box(edges):
            raise DataError(
                f'data.root: {where}: boxes has {json.dumps(one)[:80]}; write [{{"label": "dog", '
                '"box": [x0, y0, x1, y1]}, ...], in pixels'
            )
        boxes.append((label, tuple(float(edge) for edge in edges)))
    return tuple(boxes)


def is_box(edges: Any) -> bool:
    """Return whether a value is a list of four numbers, in any order."""
    numbers = isinstance(edges, list) and all(isinstance(edge, int | float) for edge in edges)
    return numbers and len(edges) == 4 and not any(isinstance(edge, bool) for edge in edges)


def join_name(folder: str, name: str, where: str) -> str:
    """Return the source's name of a file that a record names relative to its folder. Backslashes separate folders."""
    return posixpath.normpath(posixpath.join(folder, clean(check_unicode(name, where).replace("\\", "/"))))


def check_unicode(text: str, where: str) -> str:
    """Return the text. Raises DataError for an unpaired surrogate, which JSON can contain and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"data.root: {where} contains an unpaired surrogate, which is not a character; correct the text"
        ) from None
    return text


def is_number(text: str) -> bool:
    """Return whether a text is an integer as Python writes it."""
    return text.removeprefix("-").isdecimal() and text.isascii() and str(int(text)) == text
