"""Makes an image set from the user's own images: reads a folder or tars once, checks and resizes the images.

The same images make the same set, byte for byte, from a folder, from tars on disk and from tars in S3, in any order.
`sources` and `annotations` describe their layout. In addition to the files of `image_set`, a set has

    report.json       what was found, converted and left out
    source.json       what the set was made from; written last, so a set that has one is complete
"""

import errno
import hashlib
import json
import posixpath
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from training.data import image_set
from training.data.array_files import COPY_BYTES
from training.data.image_set import DataError, ImageSet
from training.data.locks import lock_folder
from training.data.own_images.advice import advise
from training.data.own_images.annotations import Role
from training.data.own_images.assembly import Content, Selection, assemble, select_usable
from training.data.own_images.folder import Folder
from training.data.own_images.gathering import Gathered
from training.data.own_images.names import IMAGE_ENDINGS, is_hidden
from training.data.own_images.report import PreparationProgress, build_report, group_by_kind, table
from training.data.own_images.source import Source
from training.data.own_images.sources import open_source

REPORT, STAMP = "report.json", "source.json"
VERSION = 5  # to be raised when the same images would make another set
UNWRITABLE = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST")}


@dataclass(frozen=True)
class Settings:
    """How images are prepared.

    image_size: side of the set's square images, in pixels. channels: 1 for grey, 3 for colour.
    held_out: share of the images that are held out, in [0, 1), unless records say which.
    max_bad: largest permitted share of unusable images, in [0, 1). background: the colour under transparent pixels.
    name: of the set. classes: the names of its classes, in their order; None: those that the images have.
    bucket_step: whole images are kept too, in shapes whose sides are multiples of this number of pixels; None keeps
    squares alone.
    """

    image_size: int
    channels: int = 3
    held_out: float = 0.05
    max_bad: float = 0.01
    background: str = "white"
    name: str = "images"
    bucket_step: int | None = None
    classes: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON, without those that are not used, so that sets of earlier versions are found."""
        return {field: value for field, value in asdict(self).items() if value is not None}


def prepare_once(source: str, root: Path, settings: Settings, *, console: Console | None = None) -> ImageSet:
    """Return the set at `root` if it was made from `source` in its present state with these settings; else prepare it.

    Of several processes one prepares the set while the others wait. Raises DataError; see `prepare`.
    """
    console = console or Console()
    stamp = source_stamp(source, settings)
    if (ready := ready_set(root, stamp)) is not None:
        return ready
    try:
        lock = lock_folder(root, lambda: console.print(f"another process prepares {root}; waiting for it"))
    except OSError as error:
        raise DataError(f"data.prepared: {root} cannot be written ({error.strerror})") from None
    with lock:
        if (ready := ready_set(root, stamp)) is not None:
            return ready
        made = prepare(source, root, settings, console=console)
        (root / STAMP).write_text(json.dumps({"source": source, "stamp": stamp, **settings.to_json()}, indent=2) + "\n")
        return made


def prepare(source: str, root: Path, settings: Settings, *, console: Console | None = None) -> ImageSet:
    """Make an image set at `root` from the images at `source`, and print a report.

    source: a folder, a tar, a folder of tars, a pattern of tars, s3://bucket/key.tar or s3://bucket/prefix/.
    Raises DataError for a source that cannot be used, and leaves `root` unchanged. If too many images are unusable,
    the report is stored next to `root`, as ROOT.refused.json.
    """
    console = console or Console()
    origin = open_source(source)
    check_location(origin, root)
    refused = root.with_name(f"{root.name}.refused.json")
    with scratch_folder(root) as folder:
        gathered = Gathered(folder, settings.image_size, settings.channels, settings.background, settings.bucket_step)
        progress = PreparationProgress(origin, console)
        with progress.show():
            gathered.read(origin, progress)
        selection = select_usable(gathered)
        alone = gathered.annotations.alone(gathered.images)
        others = sorted([*gathered.others.values(), *(posixpath.splitext(name)[1].lower() for name in alone)])
        unread = gathered.annotations.unread
        if not selection.found:
            endings = ", ".join(f"{others.count(ending)} {ending}" for ending in sorted(set(others))) or "nothing else"
            advice = next(filter(None, map(advise, sorted(gathered.others))), None)
            raise DataError(
                f"data.root: {source} holds no images ({', '.join(IMAGE_ENDINGS)}); it holds {endings}"
                + (f" ({advice})" if advice else "")
            )
        if len(selection.bad) > settings.max_bad * selection.found:
            write_json(refused, build_report(selection, None, others, unread))
            raise DataError(describe_refusal(selection, settings.max_bad, refused))
        content = assemble(gathered, selection.usable, settings.held_out, settings.classes)
        document = build_report(selection, content, others, unread)
        (root / STAMP).unlink(missing_ok=True)
        made = write(root, settings.name, content, gathered)
        write_json(root / REPORT, document)
        refused.unlink(missing_ok=True)
    console.print(table(document, f"{settings.name}: {source}"))
    return made


def write(root: Path, name: str, content: Content, gathered: Gathered) -> ImageSet:
    """Write the set from the scratch files."""
    arrays: dict[Role, NDArray[np.uint8]] = {}
    for kind in ("image", "map", "mask"):
        if rows := [kept.row for kept in content.planes(kind)]:
            arrays[kind] = cast(Any, gathered.scratch[kind].rows(rows))
    maps = arrays.get("map")
    whole = gathered.whole_images(content.planes("image"))
    return image_set.write(
        root,
        name=name,
        images=arrays["image"],
        records=content.records,
        train_count=content.train_count,
        maps=maps,
        masks=arrays.get("mask"),
        whole=whole,
        classes=content.classes,
        box_classes=content.box_classes,
        map_classes=() if maps is None else map_classes(maps),
    )


def map_classes(maps: NDArray[np.uint8]) -> tuple[str, ...]:
    """Return the names of the maps' classes: the numbers up to the largest that occurs."""
    parts = np.array_split(np.arange(len(maps)), -(-len(maps) // COPY_BYTES))
    top = max(int(maps[part].max()) for part in parts)
    return tuple(str(number) for number in range(top + 1))


def describe_refusal(selection: Selection, max_bad: float, listing: Path) -> str:
    """Return the message for a source with too many unusable images."""
    groups = group_by_kind(selection.bad)
    kinds = ", ".join(f"{group['count']:,} {kind}" for kind, group in groups.items())
    first = min(selection.bad)
    share = float(f"{100 * len(selection.bad) / selection.found:.2g}")
    return (
        f"data.root: {len(selection.bad):,} of {selection.found:,} images cannot be used "
        f"({share:g} %, permitted: data.max_bad={100 * max_bad:g} %): {kinds}; "
        f"the first: {first}: {selection.bad[first].kind} ({selection.bad[first].reason}). Repair or remove them, or "
        f"raise data.max_bad; more are listed in {listing}"
    )


def source_stamp(source: str, settings: Settings) -> str:
    """Hash the settings and the listing of a source: names, sizes, and times or ETags. No image is read.

    Raises DataError if there is no such source.
    """
    entries = sorted((entry.name, entry.size, entry.version) for entry in open_source(source).entries)
    digest = hashlib.sha256(json.dumps([VERSION, settings.to_json()], sort_keys=True).encode())
    for entry in entries:
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()


def ready_set(root: Path, stamp: str) -> ImageSet | None:
    """Return the set at `root` if it has this stamp, else None."""
    try:
        if json.loads((root / STAMP).read_text())["stamp"] == stamp:
            return image_set.read(root)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        pass
    return None


def check_location(source: Source, root: Path) -> None:
    """Raise DataError if the set would be stored among its images, which would include it the next time."""
    if not isinstance(source, Folder):
        return
    images, folder = source.root.resolve(), root.resolve()
    if folder == images or (
        folder.is_relative_to(images) and not any(map(is_hidden, folder.relative_to(images).parts))
    ):
        raise DataError(f"data.prepared: {root} is inside data.root, {source.root}; choose a folder outside of it")


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """Create an empty folder next to `root`, and remove it in the end. One left by an interrupted run is replaced."""
    folder = root.with_name(f"{root.name}.scratch")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise DataError(f"data.prepared: {root} cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document, indented."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
