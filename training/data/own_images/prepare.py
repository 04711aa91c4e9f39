"""The user's own pictures as an image set: read once from a folder or tars, checked, brought to size, written.

The same pictures make the same set, byte for byte, from a folder, from tars on disk and from tars in S3, in whatever
order they come; `sources` and `annotations` say how they are laid out. Beside the files of `image_set` a set has

    report.json       what was found, converted and left out
    source.json       what it was made from; written last, so a set with one need not be made again
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console

from training.data import image_set
from training.data.image_set import DataError, ImageSet
from training.data.own_images.annotations import Role
from training.data.own_images.assembly import Content, Judged, assemble, judge
from training.data.own_images.gathering import Gathered
from training.data.own_images.report import PreparationProgress, grouped, report, table
from training.data.own_images.sources import PICTURE_ENDINGS, Folder, Source, is_hidden, open_source

REPORT, STAMP = "report.json", "source.json"
VERSION = 1  # of this preparation: raised when the same pictures would make another set
UNWRITABLE = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST")}


def prepared(
    source: str,
    root: Path,
    *,
    image_size: int,
    channels: int = 3,
    held_out: float = 0.05,
    max_bad: float = 0.01,
    name: str = "images",
    console: Console | None = None,
) -> ImageSet:
    """The set at `root` if it was made from `source` as it is now, by these settings; else it is made anew.

    Of several processes one makes it and the others wait. Arguments and errors are those of `prepare`.
    """
    console = console or Console()
    settings = {
        "image_size": image_size,
        "channels": channels,
        "held_out": held_out,
        "max_bad": max_bad,
        "name": name,
    }
    stamp = source_stamp(source, settings)
    if (ready := ready_set(root, stamp)) is not None:
        return ready
    with locked(root, console):
        if (ready := ready_set(root, stamp)) is not None:
            return ready
        made = prepare(source, root, **settings, console=console)  # type: ignore[arg-type]
        (root / STAMP).write_text(json.dumps({"source": source, "stamp": stamp, **settings}, indent=2) + "\n")
        return made


def prepare(
    source: str,
    root: Path,
    *,
    image_size: int,
    channels: int = 3,
    held_out: float = 0.05,
    max_bad: float = 0.01,
    name: str = "images",
    console: Console | None = None,
) -> ImageSet:
    """Make an image set at `root` from the pictures at `source`.

    source: a folder, a tar, a folder of tars, a pattern of tars, s3://bucket/key.tar or s3://bucket/prefix/.
    image_size: side of the set's square images, in pixels. channels: 1 for grey, 3 for colour.
    held_out: share of the pictures that are kept from training, in [0, 1), where no record says which.
    max_bad: largest permitted share of pictures that cannot be used, in [0, 1).
    Raises DataError, and leaves `root` as it was, for a source that cannot be used. Where the reason is too many bad
    pictures, the report lies beside `root`, as ROOT.refused.json.
    """
    console = console or Console()
    origin = open_source(source)
    check_place(origin, root)
    refused = root.with_name(f"{root.name}.refused.json")
    with workplace(root) as folder:
        gathered = Gathered(folder, image_size, channels)
        progress = PreparationProgress(origin, console)
        with progress.shown():
            gathered.read(origin, progress)
        judged = judge(gathered)
        others = sorted(gathered.others.values())
        if not judged.found:
            endings = ", ".join(f"{others.count(ending)} {ending}" for ending in sorted(set(others))) or "nothing else"
            raise DataError(
                f"data.root: {source} has no pictures in it ({', '.join(PICTURE_ENDINGS)}); it holds {endings}"
            )
        if len(judged.bad) > max_bad * judged.found:
            write_json(refused, report(judged, None, others))
            raise DataError(refusal(judged, max_bad, refused))
        content = assemble(gathered, judged.usable, held_out)
        document = report(judged, content, others)
        (root / STAMP).unlink(missing_ok=True)
        made = write(root, name, content, gathered)
        write_json(root / REPORT, document)
        refused.unlink(missing_ok=True)
    console.print(table(document, f"{name}: {source}"))
    return made


def write(root: Path, name: str, content: Content, gathered: Gathered) -> ImageSet:
    """Write the set from the scratch files."""
    arrays: dict[Role, NDArray[np.uint8]] = {}
    for kind in ("picture", "map", "mask"):
        if rows := [kept.row for kept in content.planes(kind)]:
            arrays[kind] = cast(Any, gathered.scratch[kind].rows(rows))
    maps = arrays.get("map")
    return image_set.write(
        root,
        name=name,
        images=arrays["picture"],
        records=content.records,
        train_count=content.train_count,
        maps=maps,
        masks=arrays.get("mask"),
        classes=content.classes,
        box_classes=content.box_classes,
        map_classes=() if maps is None else map_classes(maps),
    )


def map_classes(maps: NDArray[np.uint8]) -> tuple[str, ...]:
    """Names of the maps' classes: their numbers, up to the largest one there is."""
    parts = np.array_split(np.arange(len(maps)), -(-len(maps) // image_set.COPIED))
    top = max(int(maps[part].max()) for part in parts)
    return tuple(str(number) for number in range(top + 1))


def refusal(judged: Judged, max_bad: float, listing: Path) -> str:
    """What to tell of a source with too many bad pictures."""
    groups = grouped(judged.bad)
    kinds = ", ".join(f"{group['count']:,} {kind}" for kind, group in groups.items())
    first = min(judged.bad)
    return (
        f"data.root: {len(judged.bad):,} of {judged.found:,} pictures cannot be used "
        f"({100 * len(judged.bad) / judged.found:.2g} %, permitted: data.max_bad={100 * max_bad:g} %): {kinds}; "
        f"the first: {first}: {judged.bad[first].kind} ({judged.bad[first].reason}). Mend or remove them, or raise "
        f"data.max_bad; more are named in {listing}"
    )


def source_stamp(source: str, settings: Mapping[str, Any]) -> str:
    """What identifies a source and the settings without reading a picture: names, sizes, and times or ETags.

    Raises DataError where there is no such source.
    """
    entries = sorted((entry.name, entry.size, entry.version) for entry in open_source(source).entries)
    digest = hashlib.sha256(json.dumps([VERSION, dict(settings)], sort_keys=True).encode())
    for entry in entries:
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()


def ready_set(root: Path, stamp: str) -> ImageSet | None:
    """The set at `root` if it carries the stamp."""
    try:
        if json.loads((root / STAMP).read_text())["stamp"] == stamp:
            return image_set.read(root)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        pass
    return None


def check_place(source: Source, root: Path) -> None:
    """Raise DataError for a set that would lie among its pictures: it would be one of them the next time."""
    if not isinstance(source, Folder):
        return
    pictures, place = source.root.resolve(), root.resolve()
    if place == pictures or (
        place.is_relative_to(pictures) and not any(map(is_hidden, place.relative_to(pictures).parts))
    ):
        raise DataError(f"data.prepared: {root} lies inside data.root, {source.root}; choose a place outside of it")


@contextmanager
def workplace(root: Path) -> Iterator[Path]:
    """An empty folder beside `root`, gone afterwards. What an interrupted preparation left there goes first."""
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


@contextmanager
def locked(root: Path, console: Console) -> Iterator[None]:
    """Keep other processes from making the same set."""
    path = root.with_name(f"{root.name}.lock")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.print(f"another process prepares {root}; waiting for it")
            lock.acquire()
    except OSError as error:
        raise DataError(f"data.prepared: {path} cannot be written ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write it, to be read by people."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
