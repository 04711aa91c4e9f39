"""Says what would be read as what, without preparing: lists all files, reads all tables, and looks at some images."""

import posixpath
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from training.data.image_set import DataError
from training.data.own_images import decoding
from training.data.own_images.annotations import Annotations
from training.data.own_images.layout import folder_labels, folder_splits
from training.data.own_images.looks import Look, look_closely
from training.data.own_images.names import CAPTION_ENDINGS, is_image, may_be_image
from training.data.own_images.records import parse_annotation
from training.data.own_images.source import Source
from training.data.own_images.sources import open_source

FIRST = 5  # names and captions that are told


@dataclass
class Inspection:
    """What a source holds. Sizes, channels, duplicates and odd ones are told of `looks` alone."""

    source: str
    kind: str  # of the source: folder, tars, zips, parquet or idx
    images: int = 0
    complete: bool = True  # whether all files were listed; a stream is read only as far as images are looked at
    labels_from: str = "nothing"
    classes: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    with_text: int = 0
    texts: list[str] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)  # by name: how many rows are read, or why none
    left_out: dict[str, list[str]] = field(default_factory=dict)  # by reason, all names
    looks: list[Look] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)  # of the images in `looks`

    @property
    def channels(self) -> int:
        """1 if all images that were looked at are grey, else 3."""
        return 1 if self.looks and all(one.grey for one in self.looks) else 3


class Reader:
    """Reads a source as far as an inspection needs it."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.count = source, count
        self.annotations = Annotations()
        self.names: list[str] = []
        self.others: dict[str, str] = {}
        self.captions: set[str] = set()  # names without ending, of files that hold a caption
        self.looks: list[Look] = []
        self.unreadable: dict[str, str] = {}
        self.known = [name for name in source.names if self.annotations.role(name) == "image"]
        self.chosen = set(self.known[:: max(1, -(-len(self.known) // count))])
        self.stems = {posixpath.splitext(name)[0] for name in self.chosen}

    def wanted(self, name: str) -> bool:
        """Return whether a file must be read."""
        role = self.annotations.role(name)
        if role == "sidecar":
            return not self.known or posixpath.splitext(name)[0] in self.stems
        return role == "metadata" or (not self.known or name in self.chosen if is_image(name) else may_be_image(name))

    def read(self) -> bool:
        """Read the source. Returns whether all files were listed. Raises DataError."""
        for member in self.source.members(self.wanted):
            name = member.name
            role = "image" if member.record is not None else self.annotations.role(name)
            if role == "other" and may_be_image(name) and decoding.looks_like_image(member.head):
                role = "image"
            if role == "image":
                self.names.append(name)
                if member.record is not None:
                    annotation = parse_annotation(member.record, member.origin, posixpath.dirname(name))
                    self.annotations.add_record(name, annotation, member.origin)
                    self.annotations.complete = True
                if member.body is not None and len(self.looks) + len(self.unreadable) < self.count:
                    seen = look_closely(member)
                    if isinstance(seen, Look):
                        self.looks.append(seen)
                    else:
                        self.unreadable[name] = seen
                if not self.known and len(self.names) >= self.count:
                    return False
            elif role == "metadata":
                self.annotations.add_metadata(name, member.read(), member.origin)
            elif role == "sidecar":
                stem, ending = posixpath.splitext(name)
                if ending.lower() in CAPTION_ENDINGS:
                    self.captions.add(stem)
                if member.body is not None:
                    self.annotations.add_sidecar(name, member.read(), member.origin)
            elif role == "other":
                self.others[name] = posixpath.splitext(name)[1].lower() or "no ending"
        return True


def inspect(url: str, count: int) -> Inspection:
    """Inspect a source, looking at up to `count` images. Raises DataError."""
    source = open_source(url)
    reader = Reader(source, count)
    with decoding.ignore_pillow_warnings():
        complete = reader.read()
    annotations = reader.annotations
    annotations.resolve(dict.fromkeys(reader.names))
    listed = annotations.listed
    names = [name for name in reader.names if name in listed] if annotations.complete else reader.names
    found = Inspection(url, type(source).__name__.lower(), len(names), complete)
    found.looks = [one for one in reader.looks if not annotations.complete or one.name in listed]
    found.tables = {**{name: f"{rows:,} rows" for name, rows in annotations.tables.items()}, **annotations.unread}
    describe_labels(found, annotations, names)
    describe_texts(found, reader, names)
    describe_splits(found, annotations, names)
    found.left_out = left_out(reader, names)
    if not found.images and not found.left_out:
        raise DataError(f"data.root: {url} is empty")
    return found


def describe_labels(found: Inspection, annotations: Annotations, names: Sequence[str]) -> None:
    """Tell the classes: of tables, else of files beside the images that were looked at, else of folders."""
    of_rows = {n: str(a.label) for n, a in annotations.listed.items() if a.label is not None}
    labels = {name: of_rows[name] for name in names if name in of_rows}
    found.labels_from = "tables"
    if not labels:
        found.labels_from = f"files beside the {len(found.looks):,} images looked at"
        for one in found.looks:
            try:
                label = annotations.of(one.name, {}).label
            except DataError as error:
                found.left_out.setdefault(str(error).removeprefix("data.root: "), []).append(one.name)
                continue
            labels |= {one.name: str(label)} if label is not None else {}
    if not labels and not annotations.complete:
        found.labels_from = "folders"
        labels = {name: str(label) for name, label in folder_labels(names).items()}
    found.labels_from = found.labels_from if labels else "nothing"
    found.classes = dict(sorted(Counter(labels.values()).items()))
    found.labels = {one.name: labels[one.name] for one in found.looks if one.name in labels}


def describe_texts(found: Inspection, reader: Reader, names: Sequence[str]) -> None:
    """Tell how many images have a caption, and the first captions."""
    listed = reader.annotations.listed
    with_json = {posixpath.splitext(name)[0] for name in reader.annotations.sidecars if name.endswith(".json")}
    beside = reader.captions | with_json
    found.with_text = sum(
        (name in listed and listed[name].text is not None) or posixpath.splitext(name)[0] in beside for name in names
    )
    for one in found.looks:
        try:
            text = reader.annotations.of(one.name, {}).text
        except DataError:
            continue
        if text and len(found.texts) < FIRST:
            found.texts.append(text)


def describe_splits(found: Inspection, annotations: Annotations, names: Sequence[str]) -> None:
    """Tell how many images are for training and held out, as far as records or folders say."""
    splits = {n: a.split for n, a in annotations.listed.items() if a.split is not None} or folder_splits(names)[0]
    if "held_out" in splits.values():
        held = sum(splits.get(name) == "held_out" for name in names)
        found.splits = {"train": len(names) - held, "held_out": held}


def left_out(reader: Reader, names: Collection[str]) -> dict[str, list[str]]:
    """Return the names of what would not be read, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in reader.unreadable.items():
        reasons.setdefault(f"cannot be used: {reason}", []).append(name)
    for name, ending in reader.others.items():
        reasons.setdefault(f"not read: {ending}", []).append(name)
    if reader.annotations.complete:
        used = set(names)
        reasons["not in the metadata"] = [name for name in reader.names if name not in used]
        missing = [name for name in reader.annotations.listed if name not in used]
        reasons["listed, but missing"] = missing if reader.known else []
    stems = {posixpath.splitext(name)[0] for name in reader.names}
    reasons["caption beside no image"] = sorted(reader.captions - stems)
    return {reason: found for reason, found in reasons.items() if found}
