"""What a source says of its pictures: `metadata.jsonl`, and the files that lie beside a picture under its name.

    cat.png           the picture
    cat.txt           its text
    cat.cls           its label
    cat.json          its record, as a line of metadata.jsonl has it, without file_name
    cat.map.png       the class of each pixel
    cat.mask.png      white in the hole
    metadata.jsonl    {"file_name": "cat.png", "text": ..., "label": ..., "boxes": ..., "map": ..., "mask": ...,
                      "split": ...}; file names are relative to the folder that the file is in

A record counts for more than the files. A further part of a picture's name, up to the first dot, may be left out of
theirs (cat.left.png has cat.txt too), as WebDataset has it.
"""

import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from training.data.image_set import DataError
from training.data.own_images.sources import METADATA, PICTURE_ENDINGS, clean

MAP_ENDING, MASK_ENDING = ".map.png", ".mask.png"
SIDECARS = (".txt", ".cls", ".json")
LONGEST_SIDECAR = 1 << 20  # bytes; what is longer speaks of more than one picture
SPLITS = {"train": "train", "held_out": "held_out", "validation": "held_out", "test": "held_out"}

Label = str | int
Role = Literal["picture", "map", "mask", "sidecar", "metadata", "other"]


@dataclass(frozen=True)
class Told:
    """What is said of a picture. boxes: (label, [x0, y0, x1, y1] in pixels). map, mask: names of files."""

    text: str | None = None
    label: Label | None = None
    boxes: tuple[tuple[Label, tuple[float, ...]], ...] | None = None
    map: str | None = None
    mask: str | None = None
    split: str | None = None


class Annotations:
    """Collects what is said, in any order, and tells it of one picture after the other."""

    def __init__(self) -> None:
        self.listed: dict[str, Told] = {}
        self.where: dict[str, str] = {}  # the line that lists a picture
        self.sidecars: dict[str, tuple[bytes, str]] = {}  # content and origin, by name
        self.planes: dict[str, Role] = {}  # the maps and masks that metadata names

    def role(self, name: str) -> Role:
        """What a file of this name is, as far as is known by now."""
        lower = name.lower()
        if posixpath.basename(name) == METADATA:
            return "metadata"
        if name in self.planes:
            return self.planes[name]
        if name in self.listed:
            return "picture" if lower.endswith(PICTURE_ENDINGS) else "other"
        if lower.endswith(MAP_ENDING):
            return "map"
        if lower.endswith(MASK_ENDING):
            return "mask"
        if lower.endswith(PICTURE_ENDINGS):
            return "picture"
        return "sidecar" if lower.endswith(SIDECARS) else "other"

    def add_metadata(self, name: str, data: bytes, origin: str) -> None:
        """Read a metadata.jsonl. Raises DataError naming the line."""
        folder = posixpath.dirname(name)
        for number, line in enumerate(decoded(data, origin).splitlines(), 1):
            if not line.strip():
                continue
            where = f"{origin}:{number}"
            raw = parsed(line, where)
            file_name = raw.get("file_name")
            if not isinstance(file_name, str) or not file_name:
                raise DataError(f"data.root: {where} has no file_name; each line names its picture")
            picture = joined(folder, file_name, where)
            if picture in self.listed:
                raise DataError(f"data.root: {where} lists {picture} a second time, after {self.where[picture]}")
            told = told_by(raw, where, folder)
            self.listed[picture], self.where[picture] = told, where
            self.planes |= {told.map: "map"} if told.map else {}
            self.planes |= {told.mask: "mask"} if told.mask else {}

    def add_sidecar(self, name: str, data: bytes, origin: str) -> None:
        """Keep a file that may belong to a picture."""
        if len(data) <= LONGEST_SIDECAR:
            self.sidecars[name] = data, origin

    def of(self, picture: str, planes: Mapping[str, Any]) -> Told:
        """All that is said of a picture; `planes` holds the maps and masks there are, by name. Raises DataError."""
        told = self.listed.get(picture, Told())
        if found := self._beside(picture, ".json", self.sidecars):
            data, origin = self.sidecars[found]
            raw = parsed(decoded(data, origin), origin)
            told = either(told, told_by(raw, origin, posixpath.dirname(picture)))
        text, label = (self._content(picture, ending) for ending in (".txt", ".cls"))
        beside = Told(
            text=text,
            label=int(label) if label and is_number(label) else label,
            map=self._beside(picture, MAP_ENDING, planes),
            mask=self._beside(picture, MASK_ENDING, planes),
        )
        return either(told, beside)

    def _content(self, picture: str, ending: str) -> str | None:
        found = self._beside(picture, ending, self.sidecars)
        return decoded(*self.sidecars[found]).strip() or None if found else None

    def _beside(self, picture: str, ending: str, names: Iterable[str]) -> str | None:
        folder, _, file = picture.rpartition("/")
        for stem in (file.rpartition(".")[0], file.partition(".")[0]):
            if (name := posixpath.join(folder, stem + ending)) in names:
                return name
        return None


def either(first: Told, second: Told) -> Told:
    """Of each field what the first says, else the second."""
    values = {field.name: getattr(first, field.name) for field in fields(Told)}
    return Told(**{name: getattr(second, name) if value is None else value for name, value in values.items()})


def parsed(line: str, where: str) -> dict[str, Any]:
    """A JSON object. Raises DataError."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"data.root: {where} is not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise DataError(f"data.root: {where} is not a JSON object")
    return raw


def decoded(data: bytes, origin: str) -> str:
    """UTF-8 text, with or without a byte order mark. Raises DataError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"data.root: {origin} is not UTF-8 (byte {error.start})") from None


def told_by(raw: Mapping[str, Any], where: str, folder: str) -> Told:
    """A record's fields, checked; others are ignored, and null is as none. Raises DataError."""
    text = string(raw, "text", where)
    split = string(raw, "split", where)
    if split is not None and split not in SPLITS:
        raise DataError(f"data.root: {where}: split {split!r} is not allowed; permitted: {', '.join(SPLITS)}")
    planes = {field: string(raw, field, where) for field in ("map", "mask")}
    return Told(
        text=text,
        label=label_of(raw.get("label"), where, "label"),
        boxes=boxes_of(raw["boxes"], where) if raw.get("boxes") is not None else None,
        split=SPLITS[split] if split else None,
        **{field: joined(folder, name, where) if name else None for field, name in planes.items()},
    )


def string(raw: Mapping[str, Any], field: str, where: str) -> str | None:
    """A field's text, stripped; None where it is empty. Raises DataError."""
    value = raw.get(field)
    if value is not None and not isinstance(value, str):
        raise DataError(f"data.root: {where}: {field} is {json.dumps(value)[:60]}; it has to be a string")
    return unicode(value, where).strip() or None if value else None


def label_of(value: Any, where: str, field: str) -> Label | None:
    """A name or number. Raises DataError."""
    if isinstance(value, str):
        return unicode(value, where).strip() or None
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise DataError(f"data.root: {where}: {field} is {json.dumps(value)[:60]}; it has to be a string or a whole number")


def boxes_of(value: Any, where: str) -> tuple[tuple[Label, tuple[float, ...]], ...]:
    """[{"label": ..., "box": [x0, y0, x1, y1]}, ...]. Raises DataError."""
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
    """Whether it is four numbers, whatever they are."""
    numbers = isinstance(edges, list) and all(isinstance(edge, int | float) for edge in edges)
    return numbers and len(edges) == 4 and not any(isinstance(edge, bool) for edge in edges)


def joined(folder: str, name: str, where: str) -> str:
    """A file that a record names, as its source calls it."""
    return posixpath.normpath(posixpath.join(folder, clean(unicode(name, where))))


def unicode(text: str, where: str) -> str:
    """The text. Raises DataError for halves of surrogate pairs, which JSON can hold and no file can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"data.root: {where} holds half a surrogate pair, which is no character") from None
    return text


def is_number(text: str) -> bool:
    """Whether it is a whole number as Python writes it."""
    return text.removeprefix("-").isdecimal() and text.isascii() and str(int(text)) == text


def class_names(labels: Mapping[str, Sequence[Label]], what: str) -> tuple[str, ...]:
    """The names of all labels, sorted, numerically where all are numbers. labels: those of each picture, by its name.

    Raises DataError where some are numbers and some are names.
    """
    kinds: dict[type, tuple[str, Label]] = {}
    for picture in sorted(labels):
        for label in labels[picture]:
            kinds.setdefault(type(label), (picture, label))
    if len(kinds) > 1:
        (one, number), (other, word) = kinds[int], kinds[str]
        raise DataError(
            f"data.root: {what} mix numbers ({one}: {number}) and names ({other}: {json.dumps(word)}); use one of them"
        )
    names = {str(label) for of_one in labels.values() for label in of_one}
    return tuple(sorted(names, key=int) if all(map(is_number, names)) else sorted(names))


def folder_labels(pictures: Iterable[str]) -> dict[str, Label]:
    """The folder of each picture, where they lie in two or more folders of one level; else nothing."""
    parts = {name: name.split("/") for name in pictures}
    folders = {part[0] for part in parts.values()}
    if len(folders) < 2 or any(len(part) != 2 for part in parts.values()):
        return {}
    return {name: part[0] for name, part in parts.items()}
