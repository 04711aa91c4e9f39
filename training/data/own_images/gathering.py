"""Reads every file of a source once and decodes it on several threads. Pixels go to disk, the rest stays in memory."""

import os
import posixpath
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from training.data.aspect_buckets import Buckets, bucket_sizes, name_of
from training.data.image_set import DataError
from training.data.own_images import decoding
from training.data.own_images.annotations import Annotations, Role
from training.data.own_images.crops import Size
from training.data.own_images.decoding import DecodedImage, DecodedPlane, Problem
from training.data.own_images.names import may_be_image
from training.data.own_images.records import parse_annotation
from training.data.own_images.scratch import Scratch
from training.data.own_images.source import Member, Source

UNIQUE = "names must be unique; of archives, unpack each into a folder of its own, which may be the label"
AHEAD = 4  # files of each thread that wait in memory

Decoder = Callable[[bytes], DecodedImage | DecodedPlane]


@dataclass(frozen=True)
class StoredImage:
    """A decoded image, map or mask. row: its row in the scratch file. whole: its bucket, and its row there."""

    row: int
    size: Size
    conversions: tuple[str, ...] = ()
    whole: tuple[int, int] | None = None


class Gathered:
    """The content of a source: images, maps and masks by name, each stored or with its problem, and annotations."""

    def __init__(
        self, folder: Path, image_size: int, channels: int, background: str, bucket_step: int | None = None
    ) -> None:
        self.annotations = Annotations()
        self.images: dict[str, StoredImage | Problem] = {}
        self.maps: dict[str, StoredImage | Problem] = {}
        self.masks: dict[str, StoredImage | Problem] = {}
        self.origins: dict[str, str] = {}
        self.others: dict[str, str] = {}  # the ending of each other file
        plane = (image_size, image_size)
        self.scratch: dict[Role, Scratch] = {
            "image": Scratch(folder / "images", (*plane, channels)),
            "map": Scratch(folder / "maps", plane),
            "mask": Scratch(folder / "masks", plane),
        }
        self.buckets = [] if bucket_step is None else bucket_sizes(image_size, bucket_step)
        self.whole = [Scratch(folder / name_of(size), (*size[::-1], channels)) for size in self.buckets]
        self.decoders: dict[Role, Decoder] = {
            "image": lambda data: decoding.decode(
                data, image_size=image_size, channels=channels, background=background, buckets=self.buckets
            ),
            "map": lambda data: decoding.decode_map(data, image_size=image_size),
            "mask": lambda data: decoding.decode_mask(data, image_size=image_size),
        }
        self.tables: dict[Role, dict[str, StoredImage | Problem]] = {
            "image": self.images,
            "map": self.maps,
            "mask": self.masks,
        }
        self.bad = Counter[str]()
        self.resolved = False  # whether the annotations are listed by the names of images before these are read

    def wanted(self, name: str) -> bool:
        """Return whether a file must be read."""
        return self.annotations.role(name) != "other" or may_be_image(name)

    def read(self, source: Source, progress: Callable[[int, int], None]) -> None:
        """Read the whole source. `progress` is called with the number of images so far and of bad ones among them.

        Raises DataError.
        """
        window: deque[tuple[Role, str, Future[DecodedImage | DecodedPlane | Problem]]] = deque()
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        pool = ThreadPoolExecutor(workers, "decode")
        try:
            with decoding.ignore_pillow_warnings():
                for member in source.members(self.wanted):
                    role = self._role(source, member)
                    if role in self.tables and not self._skip_unlisted(source, role, member.name):
                        self._check_unique(role, member)
                        window.append((role, member.name, pool.submit(self._decode, role, member)))
                        if len(window) >= AHEAD * workers:
                            self._store(*window.popleft())
                    elif role not in self.tables:
                        self._note(role, member)
                    progress(len(self.images), self.bad["image"])
                while window:
                    self._store(*window.popleft())
                    progress(len(self.images), self.bad["image"])
                self.annotations.resolve(self.images)
        finally:
            pool.shutdown(cancel_futures=True)
            for scratch in (*self.scratch.values(), *self.whole):
                scratch.close()

    def _role(self, source: Source, member: Member) -> Role:
        """Return the role of a file: by its name, or by its first bytes if the name tells nothing."""
        role = self.annotations.role(member.name)
        if role == "other" and may_be_image(member.name) and not member.link and decoding.looks_like_image(member.head):
            role = "image"
        if member.record is not None:
            self.annotations.complete = True
            annotation = parse_annotation(member.record, member.origin, posixpath.dirname(member.name))
            self.annotations.add_record(member.name, annotation, member.origin)
            return "image"
        if role in self.tables and source.complete_metadata and not self.resolved:
            self.resolved = True
            self.annotations.resolve(set(source.names))
        return role

    def _skip_unlisted(self, source: Source, role: Role, name: str) -> bool:
        """Return whether complete metadata does not list an image; its problem is noted and it is not decoded."""
        if role != "image" or not self.resolved or not self.annotations.complete or name in self.annotations.listed:
            return False
        self.images[name] = Problem("not listed", "is not in the metadata")
        return True

    def _check_unique(self, role: Role, member: Member) -> None:
        if member.name in self.origins:
            raise DataError(
                f"data.root: two files are called {member.name}: {self.origins[member.name]} and {member.origin}; "
                f"{UNIQUE}"
            )
        self.origins[member.name] = member.origin

    def _note(self, role: Role, member: Member) -> None:
        if role == "other":
            self.others[member.name] = posixpath.splitext(member.name)[1].lower() or "no ending"
            return
        if member.link:
            return
        try:
            data = member.read()
        except OSError as error:
            raise DataError(f"data.root: {member.origin} cannot be read ({error.strerror})") from None
        add = self.annotations.add_metadata if role == "metadata" else self.annotations.add_sidecar
        add(member.name, data, member.origin)

    def _decode(self, role: Role, member: Member) -> DecodedImage | DecodedPlane | Problem:
        if member.link:
            return Problem("link", "is a link inside its tar; store the file itself (tar --dereference)")
        try:
            return self.decoders[role](member.read())
        except decoding.BadImageError as error:
            return error.problem  # an exception would keep its frames, and their pixels, in memory
        except OSError as error:
            return Problem("unreadable", error.strerror or str(error))

    def _store(self, role: Role, name: str, future: "Future[DecodedImage | DecodedPlane | Problem]") -> None:
        result = future.result()
        if isinstance(result, Problem):
            self.bad[role] += 1
            self.tables[role][name] = result
            return
        row = self.scratch[role].append(result.pixels)
        if not isinstance(result, DecodedImage):
            self.tables[role][name] = StoredImage(row, result.size)
            return
        whole = None if result.whole is None else (result.bucket, self.whole[result.bucket].append(result.whole))
        self.tables[role][name] = StoredImage(row, result.size, result.conversions, whole)

    def whole_images(self, order: Sequence[StoredImage]) -> Buckets | None:
        """Return the whole images in this order, in the buckets that have some; None without buckets."""
        places = [image.whole for image in order if image.whole is not None]
        used = sorted({bucket for bucket, _ in places})
        if not used:
            return None
        numbers = np.array([used.index(bucket) for bucket, _ in places])
        arrays = [self.whole[bucket].rows([row for other, row in places if other == bucket]) for bucket in used]
        return Buckets(tuple(self.buckets[bucket] for bucket in used), numbers, cast(Any, tuple(arrays)))
