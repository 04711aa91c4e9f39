"""The annotations of a source: tables, and sidecar files that share the name of an image.

    cat.png           the image
    cat.txt           its text; also cat.caption
    cat.cls           its label
    cat.json          its record: a line of metadata.jsonl without file_name
    cat.map.png       the class of each pixel
    cat.mask.png      white in the hole
    metadata.jsonl    {"file_name": "cat.png", "text": ..., "label": ..., "boxes": ..., "map": ..., "mask": ...,
                      "split": ...}; file names are relative to the folder of the file

`tables` lists the other forms of tables. Images that a metadata file does not list are left out; other tables leave
none out. A record takes precedence over sidecars. As in WebDataset, a sidecar may share only the part of the image's
name up to the first dot: cat.txt belongs to cat.left.png too. It may also share the whole name: cat.png.txt.
"""

import json
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from training.data.image_set import DataError
from training.data.own_images import tables
from training.data.own_images.layout import Finder, folder_labels
from training.data.own_images.names import (
    CAPTION_ENDINGS,
    IMAGE_ENDINGS,
    MAP_ENDING,
    MASK_ENDING,
    SIDECAR_ENDINGS,
    is_metadata,
    is_split_list,
    is_table,
    split_of_file,
)
from training.data.own_images.records import (
    BOX_LINES,
    Annotation,
    Label,
    decode_text,
    has_split,
    is_number,
    join_name,
    merge,
    parse_annotation,
    parse_object,
    unused_fields,
)

ANSWERS = re.compile(r"(sample|example)[-_ ]?submission", re.IGNORECASE)
LONGEST_SIDECAR = 1 << 20  # bytes; a longer file does not describe a single image

Role = Literal["image", "map", "mask", "sidecar", "metadata", "other"]
__all__ = ["Annotation", "Annotations", "Label", "Role", "class_names", "folder_labels"]


class Annotations:
    """Collects annotations in any order, and returns those of an image."""

    def __init__(self) -> None:
        self.listed: dict[str, Annotation] = {}
        self.where: dict[str, str] = {}  # the row that lists an image
        self.complete = False  # whether a metadata file lists the images, so that others are left out
        self.unlabelled = False  # whether a dataset.json says that images have no labels
        self.tables: dict[str, list[str]] = {}  # the images of each table that lists some
        self.notes: dict[str, str] = {}  # what of a table is not used
        self.unread: dict[str, str] = {}  # tables that name no images, with the reason
        self.sidecars: dict[str, tuple[bytes, str]] = {}  # content and origin, by name
        self.too_long: list[str] = []  # sidecars that describe more than an image
        self.unused_beside: dict[str, None] = {}  # the fields of .json files of which nothing is read
        self.boxes_beside: set[str] = set()  # images with boxes as YOLO's programs write them, which are not read
        self.planes: dict[str, Role] = {}  # the maps and masks that metadata names

    @property
    def labels_by_folder(self) -> bool:
        """Whether folders may be labels, if no file has labels."""
        return not (self.complete or self.unlabelled)

    def role(self, name: str) -> Role:
        """Return the role of a file of this name, as far as the metadata read so far tells."""
        lower = name.lower()
        if is_table(name):
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
        return "sidecar" if lower.endswith(SIDECAR_ENDINGS) else "other"

    def add_metadata(self, name: str, data: bytes, origin: str) -> None:
        """Read a table. Raises DataError naming the row."""
        if ANSWERS.match(posixpath.basename(name)):
            self.unread[name] = "is a form for answers to a competition, whose labels mean nothing"
            return
        if is_split_list(name) and len(data) <= LONGEST_SIDECAR:
            self.add_sidecar(name, data, origin)
        before = len(self.listed)
        try:
            of_file: dict[str, str] = {}
            repeated = 0
            unused: list[str] | None = None
            for where, raw in tables.read_table(name, data, origin):
                unused = unused_fields(raw) if unused is None else unused
                repeated += self._add_row(name, where, raw, of_file)
        except DataError as error:
            # Only a file that is called metadata has to be a table of images.
            if is_metadata(name) and not isinstance(error, tables.NoImagesError):
                raise
            if len(self.listed) > before and not isinstance(error, tables.NoImagesError):
                raise
            self.unread[name] = str(error).removeprefix(f"data.root: {origin} ").removeprefix("data.root: ")
            return
        self.tables[name] = list(of_file)
        notes = [f"{repeated:,} rows of images that it lists before: the first counts"] if repeated else []
        notes += [f"not used: {', '.join(unused)}"] if unused else []
        self.notes |= {name: "; ".join(notes)} if notes else {}
        self.complete = self.complete or (is_metadata(name) and bool(of_file))
        self.unlabelled = self.unlabelled or (posixpath.basename(name) == "dataset.json" and not of_file)

    def _add_row(self, name: str, where: str, raw: Mapping[str, Any], of_file: dict[str, str]) -> bool:
        """Add a row. Returns whether an earlier one lists its image, which metadata must not. Raises DataError."""
        folder = posixpath.dirname(name)
        image = join_name(folder, raw["file_name"], where)
        if image in of_file and is_metadata(name):
            raise DataError(f"data.root: {where} lists {image} a second time, after {of_file[image]}")
        repeated = of_file.setdefault(image, where) != where
        annotation = parse_annotation(raw, where, folder)
        if annotation.split is None and not is_metadata(name) and not has_split(raw):
            annotation = merge(annotation, Annotation(split=split_of_file(name)))
        self.add_record(image, annotation, where)
        return repeated

    def add_record(self, image: str, annotation: Annotation, where: str) -> None:
        """Add the annotation of an image. Of several, the first counts for each field."""
        if image in self.listed:
            annotation = merge(self.listed[image], annotation)
        self.listed[image] = annotation
        self.where.setdefault(image, where)
        self.planes |= {annotation.map: "map"} if annotation.map else {}
        self.planes |= {annotation.mask: "mask"} if annotation.mask else {}

    def add_sidecar(self, name: str, data: bytes, origin: str) -> None:
        """Keep a sidecar that may belong to an image."""
        if len(data) > LONGEST_SIDECAR:
            self.too_long.append(name)
            return
        stem, ending = posixpath.splitext(name)
        self.sidecars[stem + ending.lower()] = data, origin

    def resolve(self, images: Collection[str]) -> None:
        """List the annotations by the names of these images, of which records may give only a part.

        A file that is no image keeps its name, and so does an image that is missing.
        """
        finder = Finder(images)
        renamed: dict[str, str] = {}
        exact = {name: one for name, one in self.listed.items() if name in images}
        where = {name: self.where[name] for name in exact}
        for name, annotation in self.listed.items():
            if name in exact:
                continue
            found = finder.find(name)
            key = name if found is None or found in exact else found
            renamed[name] = key
            where.setdefault(key, self.where[name])
            exact[key] = annotation
        self.listed, self.where = exact, where
        self.tables = {table: [renamed.get(name, name) for name in names] for table, names in self.tables.items()}
        self._drop_unmatched(images)

    def _drop_unmatched(self, images: Collection[str]) -> None:
        """Drop the tables none of whose images is there: they describe something else. Metadata has to be right.

        The lists of splits may list others too: people keep a part of a set.
        """
        for table, names in list(self.tables.items()):
            here = any(name in images for name in names)
            if not names or is_metadata(table) or (here and not is_split_list(table)):
                continue
            dropped = [name for name in names if name not in images]
            if here:
                self.tables[table] = [name for name in names if name in images]
            else:
                del self.tables[table]
                self.notes.pop(table, None)
                if not is_caption(table, images):
                    self.unread[table] = f"none of its {len(names):,} images is here; the first: {names[0]}"
            kept = {name for others in self.tables.values() for name in others}
            for name in dropped:
                if name not in kept:
                    self.listed.pop(name, None)

    def of(self, image: str, planes: Mapping[str, Any]) -> Annotation:
        """Return the annotation of an image. planes: the maps and masks of the source, by name. Raises DataError."""
        annotation = self.listed.get(image, Annotation())
        if found := self._find_sidecar(image, ".json", self.sidecars):
            data, origin = self.sidecars[found]
            raw = parse_object(decode_text(data, origin), origin)
            self.unused_beside |= dict.fromkeys(unused_fields(raw))
            annotation = merge(annotation, parse_annotation(raw, origin, posixpath.dirname(image)))
        captions = [self._content(image, ending) for ending in CAPTION_ENDINGS]
        if any(text and BOX_LINES.fullmatch(text) for text in captions):
            self.boxes_beside.add(image)
            captions = []
        label = self._content(image, ".cls")
        sidecars = Annotation(
            text=next((text for text in captions if text), None),
            label=int(label) if label and is_number(label) else label,
            map=self._find_sidecar(image, MAP_ENDING, planes),
            mask=self._find_sidecar(image, MASK_ENDING, planes),
        )
        return merge(annotation, sidecars)

    def _content(self, image: str, ending: str) -> str | None:
        found = self._find_sidecar(image, ending, self.sidecars)
        return decode_text(*self.sidecars[found]).strip() or None if found else None

    def _find_sidecar(self, image: str, ending: str, names: Iterable[str]) -> str | None:
        return next((stem + ending for stem in sidecar_stems(image) if stem + ending in names), None)

    def alone(self, images: Iterable[str], names: Iterable[str] = ()) -> list[str]:
        """Return the sidecars that belong to no image. names: sidecars that were not added."""
        of_one = {*self.sidecars, *names} - self.tables.keys() - self.unread.keys()
        stems = {posixpath.splitext(name)[0] for name in of_one}
        stems &= {stem for image in images for stem in sidecar_stems(image) if stem in stems} if stems else set()
        return sorted([*self.too_long, *(name for name in of_one if posixpath.splitext(name)[0] not in stems)])


def is_caption(table: str, images: Collection[str]) -> bool:
    """Return whether a file that may list a split is the caption of an image, such as test.txt of test.png."""
    return is_split_list(table) and any(posixpath.splitext(table)[0] + ending in images for ending in IMAGE_ENDINGS)


def sidecar_stems(image: str) -> tuple[str, ...]:
    """Return what a sidecar of an image may be called, without its ending: cat.png, also cat for cat.left.png."""
    folder, slash, file = image.rpartition("/")
    return tuple(folder + slash + stem for stem in (file.rpartition(".")[0] or file, file.partition(".")[0], file))


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
