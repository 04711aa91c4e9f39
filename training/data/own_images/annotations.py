"""The annotations of a source: `metadata.jsonl`, and sidecar files that share the name of an image.

    cat.png           the image
    cat.txt           its text
    cat.cls           its label
    cat.json          its record: a line of metadata.jsonl without file_name
    cat.map.png       the class of each pixel
    cat.mask.png      white in the hole
    metadata.jsonl    {"file_name": "cat.png", "text": ..., "label": ..., "boxes": ..., "map": ..., "mask": ...,
                      "split": ...}; file names are relative to the folder of the file

A record takes precedence over sidecars. As in WebDataset, a sidecar may share only the part of the image's name up to
the first dot: cat.txt belongs to cat.left.png too.
"""

import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from training.data.image_set import DataError
from training.data.own_images.sources import IMAGE_ENDINGS, METADATA, clean

MAP_ENDING, MASK_ENDING = ".map.png", ".mask.png"
SIDECARS = (".txt", ".cls", ".json")
LONGEST_SIDECAR = 1 << 20  # bytes; a longer file does not describe a single image
SPLITS = {"train": "train", "held_out": "held_out", "validation": "held_out", "test": "held_out"}

Label = str | int
Role = Literal["image", "map", "mask", "sidecar", "metadata", "other"]


@dataclass(frozen=True)
class Annotation:
    """The annotation of an image. boxes: (label, [x0, y0, x1, y1] in pixels). map, mask: names of files."""

    text: str | None = None
    label: Label | None = None
    boxes: tuple[tuple[Label, tuple[float, ...]], ...] | None = None
    map: str | None = None
    mask: str | None = None
    split: str | None = None


class Annotations:
    """Collects annotations in any order, and returns those of an image."""

    def __init__(self) -> None:
        self.listed: dict[str, Annotation] = {}
        self.where: dict[str, str] = {}  # the line that lists an image
        self.sidecars: dict[str, tuple[bytes, str]] = {}  # content and origin, by name
        self.planes: dict[str, Role] = {}  # the maps and masks that metadata names

    def role(self, name: str) -> Role:
        """Return the role of a file of this name, as far as the metadata read so far tells."""
        lower = name.lower()
        if posixpath.basename(name) == METADATA:
            return "metadata"
        if name in self.planes:
            return self.planes[name]
        if name in self.listed:
            return "image" if lower.endswith(IMAGE_ENDINGS) else "other"
        if lower.endswith(MAP_ENDING):
            return "map"
        if lower.endswith(MASK_ENDING):
            return "mask"
        if lower.endswith(IMAGE_ENDINGS):
            return "image"
        return "sidecar" if lower.endswith(SIDECARS) else "other"

    def add_metadata(self, name: str, data: bytes, origin: str) -> None:
        """Read a metadata.jsonl. Raises DataError naming the line."""
        folder = posixpath.dirname(name)
        for number, line in enumerate(decode_text(data, origin).splitlines(), 1):
            if not line.strip():
                continue
            where = f"{origin}:{number}"
            raw = parse_object(line, where)
            file_name = raw.get("file_name")
            if not isinstance(file_name, str) or not file_name:
                raise DataError(f"data.root: {where} has no file_name; each line names its image")
            image = join_name(folder, file_name, where)
            if image in self.listed:
                raise DataError(f"data.root: {where} lists {image} a second time, after {self.where[image]}")
            annotation = parse_annotation(raw, where, folder)
            self.listed[image], self.where[image] = annotation, where
            self.planes |= {annotation.map: "map"} if annotation.map else {}
            self.planes |= {annotation.mask: "mask"} if annotation.mask else {}

    def add_sidecar(self, name: str, data: bytes, origin: str) -> None:
        """Keep a sidecar that may belong to an image."""
        if len(data) <= LONGEST_SIDECAR:
            self.sidecars[name] = data, origin

    def of(self, image: str, planes: Mapping[str, Any]) -> Annotation:
        """Return the annotation of an image. planes: the maps and masks of the source, by name. Raises DataError."""
        annotation = self.listed.get(image, Annotation())
        if found := self._find_sidecar(image, ".json", self.sidecars):
            data, origin = self.sidecars[found]
            raw = parse_object(decode_text(data, origin), origin)
            annotation = merge(annotation, parse_annotation(raw, origin, posixpath.dirname(image)))
        text, label = (self._content(image, ending) for ending in (".txt", ".cls"))
        sidecars = Annotation(
            text=text,
            label=int(label) if label and is_number(label) else label,
            map=self._find_sidecar(image, MAP_ENDING, planes),
            mask=self._find_sidecar(image, MASK_ENDING, planes),
        )
        return merge(annotation, sidecars)

    def _content(self, image: str, ending: str) -> str | None:
        found = self._find_sidecar(image, ending, self.sidecars)
        return decode_text(*self.sidecars[found]).strip() or None if found else None

    def _find_sidecar(self, image: str, ending: str, names: Iterable[str]) -> str | None:
        folder, _, file = image.rpartition("/")
        for stem in (file.rpartition(".")[0], file.partition(".")[0]):
            if (name := posixpath.join(folder, stem + ending)) in names:
                return name
        return None


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
    """Decode UTF-8 text, with or without a byte order mark. Raises DataError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"data.root: {origin} is not UTF-8 (byte {error.start})") from None


def parse_annotation(raw: Mapping[str, Any], where: str, folder: str) -> Annotation:
    """Check the fields of a record. Unknown fields are ignored, and null means missing. Raises DataError."""
    text = text_field(raw, "text", where)
    split = text_field(raw, "split", where)
    if split is not None and split not in SPLITS:
        raise DataError(f"data.root: {where}: split {split!r} is not allowed; permitted: {', '.join(SPLITS)}")
    planes = {field: text_field(raw, field, where) for field in ("map", "mask")}
    return Annotation(
        text=text,
        label=label_of(raw.get("label"), where, "label"),
        boxes=boxes_of(raw["boxes"], where) if raw.get("boxes") is not None else None,
        split=SPLITS[split] if split else None,
        **{field: join_name(folder, name, where) if name else None for field, name in planes.items()},
    )


def text_field(raw: Mapping[str, Any], field: str, where: str) -> str | None:
    """Return a field's text, stripped, or None if it is empty. Raises DataError."""
    value = raw.get(field)
    if value is not None and not isinstance(value, str):
        raise DataError(f"data.root: {where}: {field} is {json.dumps(value)[:60]}; it must be a string")
    return check_unicode(value, where).strip() or None if value else None


def label_of(value: Any, where: str, field: str) -> Label | None:
    """Return a label, a name or a number. Raises DataError."""
    if isinstance(value, str):
        return check_unicode(value, where).strip() or None
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
    """Return the source's name of a file that a record names relative to its folder."""
    return posixpath.normpath(posixpath.join(folder, clean(check_unicode(name, where))))


def check_unicode(text: str, where: str) -> str:
    """Return the text. Raises DataError for half a surrogate pair, which JSON can hold and a file cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"data.root: {where} holds half a surrogate pair, which is not a character") from None
    return text


def is_number(text: str) -> bool:
    """Return whether a text is an integer as Python writes it."""
    return text.removeprefix("-").isdecimal() and text.isascii() and str(int(text)) == text


def class_names(labels: Mapping[str, Sequence[Label]], what: str) -> tuple[str, ...]:
    """Return the names of all labels, sorted, as numbers if all are. labels: those of each image, by its name.

    Raises DataError if some are numbers and some are names.
    """
    kinds: dict[type, tuple[str, Label]] = {}
    for image in sorted(labels):
        for label in labels[image]:
            kinds.setdefault(type(label), (image, label))
    if len(kinds) > 1:
        (one, number), (other, word) = kinds[int], kinds[str]
        raise DataError(
            f"data.root: {what} mix numbers ({one}: {number}) and names ({other}: {json.dumps(word)}); use one of them"
        )
    names = {str(label) for of_one in labels.values() for label in of_one}
    return tuple(sorted(names, key=int) if all(map(is_number, names)) else sorted(names))


def folder_labels(images: Iterable[str]) -> dict[str, Label]:
    """Return the folder of each image if the images are in two or more folders of one level; else nothing."""
    parts = {name: name.split("/") for name in images}
    folders = {part[0] for part in parts.values()}
    if len(folders) < 2 or any(len(part) != 2 for part in parts.values()):
        return {}
    return {name: part[0] for name, part in parts.items()}
