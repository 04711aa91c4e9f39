"""Inspects a source without preparing it: lists all files, reads all tables, and looks at some images."""

import posixpath
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from training.data.image_set import DataError
from training.data.own_images import decoding
from training.data.own_images.advice import advise
from training.data.own_images.annotations import Annotations, class_names, sidecar_stems
from training.data.own_images.gathering import UNIQUE
from training.data.own_images.layout import add_folder_labels, folder_splits
from training.data.own_images.looks import Look, look_closely
from training.data.own_images.name_groups import name_groups
from training.data.own_images.names import CAPTION_ENDINGS, is_image, is_metadata, may_be_image
from training.data.own_images.planes import find_planes
from training.data.own_images.records import Annotation, Label, parse_annotation, unused_fields
from training.data.own_images.source import Member, Source
from training.data.own_images.sources import open_source

FIRST = 5  # names and captions that are shown
NAMED = 12  # fields that are shown
PLANE = "a mask or map of another picture, by its name"


@dataclass
class Inspection:
    """What a source holds. Sizes, channels, duplicates and odd ones are those of `looks` only."""

    source: str
    kind: str  # of the source: folder, tars, zips, parquet or idx
    images: int = 0
    complete: bool = True  # whether all files were listed; a stream is read only as far as images are looked at
    labels_from: str = "nothing"
    classes: dict[str, int] = field(default_factory=dict)
    name_groups: dict[str, int] = field(default_factory=dict)  # words that names begin with, if there are no classes
    splits: dict[str, int] = field(default_factory=dict)
    untrained: list[str] = field(default_factory=list)  # classes all of whose images are held out by the user's split
    held_out: set[str] = field(default_factory=set)  # of the images in `looks`, by the user's split
    with_text: int = 0
    texts: list[str] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)  # by name: how many rows are read, or why none
    left_out: dict[str, list[str]] = field(default_factory=dict)  # by reason, all names
    looks: list[Look] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)  # of the images in `looks`
    bad: dict[str, str] = field(default_factory=dict)  # of images that were looked at and cannot be used: why

    @property
    def alike(self) -> list[list[str]]:
        """Classes whose names differ in upper case and spaces alone, together."""
        groups: dict[str, list[str]] = {}
        for name in self.classes:
            groups.setdefault("".join(name.casefold().split()), []).append(name)
        return [names for names in groups.values() if len(names) > 1]

    @property
    def channels(self) -> int:
        """1 if all images that were looked at are grey, else 3."""
        return 1 if self.looks and all(one.grey for one in self.looks) else 3


class Reader:
    """Reads a source as far as an inspection needs it."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.count = source, count
        self.annotations = Annotations()
        self.names: dict[str, None] = {}
        self.others: dict[str, str] = {}
        self.unused: dict[str, None] = {}  # fields of records, of a source whose images are rows
        self.beside: set[str] = set()  # the names of files that describe an image
        self.looks: list[Look] = []
        self.unreadable: dict[str, str] = {}
        known = [name for name in source.names if self.annotations.role(name) == "image"]
        planes = find_planes(known)
        self.known = [name for name in known if name not in planes]
        self.chosen = set(self.known[:: max(1, -(-len(self.known) // count))])
        self.stems = {stem for name in self.chosen for stem in sidecar_stems(name)}

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
                if name in self.names:
                    raise DataError(f"data.root: two files are called {name}, the second in {member.origin}; {UNIQUE}")
                self.names[name] = None
                if member.record is not None:
                    self.unused |= dict.fromkeys(unused_fields(member.record))
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
                self.annotations.add_metadata(name, read_file(member), member.origin)
            elif role == "sidecar":
                stem, ending = posixpath.splitext(name)
                self.beside.add(stem + ending.lower())
                if member.body is not None:
                    self.annotations.add_sidecar(name, read_file(member), member.origin)
            elif role == "other":
                self.others[name] = posixpath.splitext(name)[1].lower() or "no ending"
        return True


def read_file(member: Member) -> bytes:
    """Return the content of a table or a sidecar. Raises DataError, for example if it was removed meanwhile."""
    try:
        return member.read()
    except OSError as error:
        raise DataError(f"data.root: {member.origin} cannot be read ({error.strerror})") from None


def inspect(url: str, count: int) -> Inspection:
    """Inspect a source, looking at up to `count` images. Raises DataError."""
    source = open_source(url)
    reader = Reader(source, count)
    with decoding.ignore_pillow_warnings():
        complete = reader.read()
    annotations = reader.annotations
    annotations.resolve(reader.names)
    listed = annotations.listed
    planes = find_planes(reader.names) - listed.keys()
    names = [name for name in reader.names if name in listed or not (annotations.complete or name in planes)]
    found = Inspection(url, type(source).__name__.lower(), len(names), complete)
    found.tables = {**describe_tables(annotations, reader.names, complete), **annotations.unread}
    if reader.unused:
        found.tables["rows"] = f"not used: {', '.join(reader.unused)}"
    used = set(names)
    seen = [one for one in reader.looks if one.name in used]
    told = read_annotations(found, annotations, [one.name for one in seen])
    found.looks = [one for one in seen if one.name in told]
    if annotations.unused_beside:
        found.tables[".json files beside images"] = f"not used: {shorten(annotations.unused_beside)}"
    unreadable = {name: f"cannot be used: {reason}" for name, reason in reader.unreadable.items()}
    found.bad |= {name: reason for name, reason in unreadable.items() if name in used}
    labels = describe_labels(found, annotations, names, told)
    found.name_groups = {} if labels else name_groups(names)
    describe_texts(found, reader, names, told)
    describe_splits(found, annotations, names, labels)
    found.left_out = left_out(reader, unreadable | found.bad, names, planes)
    if not (found.images or found.left_out or found.tables):
        raise DataError(f"data.root: {url} is empty")
    return found


def shorten(names: Collection[str]) -> str:
    """Return names, of which only the first if there are many."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(islice(names, NAMED)) + more


def describe_tables(annotations: Annotations, images: Collection[str], complete: bool) -> dict[str, str]:
    """Return how many rows of each table are read, how many of their images are missing, and what is not used."""
    told = {}
    for table, rows in annotations.tables.items():
        missing = [name for name in rows if name not in images] if complete and not is_metadata(table) else []
        lack = f", of which {len(missing):,} name no picture here (the first: {missing[0]})" if missing else ""
        told[table] = "; ".join([f"{len(rows):,} rows{lack}", *filter(None, [annotations.notes.get(table)])])
    return told


def read_annotations(found: Inspection, annotations: Annotations, names: Sequence[str]) -> dict[str, Annotation]:
    """Return the annotations of images that were looked at, and note those that cannot be read."""
    told = {}
    for name in names:
        try:
            told[name] = annotations.of(name, {})
        except DataError as error:
            what = "a caption that is not UTF-8" if "is not UTF-8" in str(error) else "annotation"
            found.bad[name] = f"cannot be used: {what}"
    return told


def describe_labels(
    found: Inspection, annotations: Annotations, names: Sequence[str], told: Mapping[str, Annotation]
) -> Mapping[str, Label]:
    """Tell the classes: of tables, else of files next to the images that were looked at, else of folders.

    Returns the labels, by the names of the images.

    Raises DataError if some are numbers and some are names.
    """
    of_rows = {name: one.label for name, one in annotations.listed.items() if one.label is not None}
    of_rows = {name: of_rows[name] for name in names if name in of_rows}
    beside = {} if of_rows else {name: one.label for name, one in told.items() if one.label is not None}
    labels: Mapping[str, Label] = of_rows or beside
    found.labels_from = "tables" if of_rows else f"files beside the {len(found.looks):,} images looked at"
    if annotations.labels_by_folder and not beside and len(labels) < len(names):
        labels = add_folder_labels(of_rows, names)
        if len(labels) > len(of_rows):
            found.labels_from = "tables and folders" if of_rows else "folders"
    found.labels_from = found.labels_from if labels else "nothing"
    counts = Counter(map(str, labels.values()))
    found.classes = {
        name: counts[name] for name in class_names({name: [one] for name, one in labels.items()}, "labels")
    }
    found.labels = {one.name: str(labels[one.name]) for one in found.looks if one.name in labels}
    return labels


def describe_texts(found: Inspection, reader: Reader, names: Sequence[str], told: Mapping[str, Annotation]) -> None:
    """Tell how many images have a caption, and the first captions.

    Files beside images that were not looked at hold a caption as often as the others: some are empty.
    """
    listed = reader.annotations.listed
    holding = (*CAPTION_ENDINGS, ".json")
    stems = {posixpath.splitext(name)[0] for name in reader.beside if name.endswith(holding)}

    def has_file(name: str) -> bool:
        return bool(stems) and not stems.isdisjoint(sidecar_stems(name))

    others = [name for name in names if name not in told and name not in found.bad]
    of_rows = {name for name in others if name in listed and listed[name].text is not None}
    looked = [one for name, one in told.items() if has_file(name)]
    share = sum(one.text is not None for one in looked) / max(1, len(looked))
    found.with_text = sum(one.text is not None for one in told.values()) + len(of_rows)
    found.with_text += round(share * sum(has_file(name) for name in others if name not in of_rows))
    found.texts = [one.text for one in told.values() if one.text][:FIRST]


def describe_splits(
    found: Inspection, annotations: Annotations, names: Sequence[str], labels: Mapping[str, Label]
) -> None:
    """Tell how many images are for training and held out, as far as records or folders say, and of which classes."""
    splits = {name: one.split for name, one in annotations.listed.items() if one.split is not None}
    splits = folder_splits(names)[0] | splits
    if "held_out" in splits.values():
        held = {name for name in names if splits.get(name) == "held_out"}
        found.splits = {"train": len(names) - len(held), "held_out": len(held)}
        trained = {str(label) for name, label in labels.items() if name not in held}
        found.untrained = [name for name in found.classes if name not in trained]
        found.held_out = {one.name for one in found.looks if one.name in held}


def left_out(
    reader: Reader, bad: Mapping[str, str], names: Collection[str], planes: Collection[str]
) -> dict[str, list[str]]:
    """Return the names of what would not be read, by reason. bad: the reason of each image that cannot be used."""
    reasons: dict[str, list[str]] = {}
    for name, reason in bad.items():
        reasons.setdefault(reason, []).append(name)
    for name, ending in reader.others.items():
        advice = advise(name)
        reasons.setdefault(f"not read: {ending}" + (f" ({advice})" if advice else ""), []).append(name)
    reasons[PLANE] = sorted(planes)
    if reader.annotations.complete:
        used = {*names, *planes}
        reasons["not in the metadata"] = [name for name in reader.names if name not in used]
        missing = [name for name in reader.annotations.listed if name not in used]
        reasons["listed, but missing"] = missing if reader.known else []
    for name in reader.annotations.alone(reader.names, reader.beside):
        reasons.setdefault(f"beside no picture: {posixpath.splitext(name)[1].lower()}", []).append(name)
    reasons["boxes of YOLO beside it are not read"] = sorted(reader.annotations.boxes_beside)
    return {reason: some for reason, some in reasons.items() if some}
