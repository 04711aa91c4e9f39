"""Image sets in the folder of training runs: their content, the images left out, and a contact sheet."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DESCRIPTION, IMAGES, REPORT, SOURCE = "images.json", "images.npy", "report.json", "source.json"
DEEPEST, MOST_SETS = 5, 500  # folders below the root, and sets
MOST_BYTES = 2**22  # of a JSON file that is read
SPLITS = ("train", "held_out")
COLUMNS, ROWS, LARGEST = 12, 4, 96  # of a contact sheet; pixels of an image


@dataclass(frozen=True)
class SetFolder:
    """A prepared set. name: its folder below the root. description: its `images.json`."""

    name: str
    folder: Path
    description: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of its images and records."""
        return str(self.description["fingerprint"])

    def rows(self, split: str) -> range:
        """Return the rows of a split."""
        count, cut = int(self.description["count"]), int(self.description["train_count"])
        return range(cut) if split == "train" else range(cut, count)

    def shape(self) -> tuple[int, int, int] | None:
        """Return the height, width and channels of its images, or None if they cannot be read."""
        images = self._images()
        return None if images is None else images.shape[1:]

    def report(self) -> Mapping[str, Any]:
        """Return what its preparation reported; nothing for sets that were not made of files."""
        return read_json(self.folder / REPORT)

    def source(self) -> str | None:
        """Return where its images came from, if that is recorded."""
        found = read_json(self.folder / SOURCE).get("source")
        return found if isinstance(found, str) else None

    def sheet(self, split: str) -> bytes | None:
        """Return a PNG of images that are evenly spread over a split, or None if it has none that can be read."""
        rows, images = self.rows(split), self._images()
        chosen = rows[:: max(1, len(rows) // (COLUMNS * ROWS))][: COLUMNS * ROWS]
        if not chosen or images is None or chosen[-1] >= len(images):
            return None
        size = min(images.shape[1], LARGEST)
        sheet = Image.new("RGBA", (min(len(chosen), COLUMNS) * size, -(-len(chosen) // COLUMNS) * size))
        for place, row in enumerate(chosen):
            pixels = np.asarray(images[row])
            picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
            sheet.paste(picture.resize((size, size)), (place % COLUMNS * size, place // COLUMNS * size))
        body = io.BytesIO()
        sheet.save(body, "PNG")
        return body.getvalue()

    def _images(self) -> NDArray[np.uint8] | None:
        try:
            images: NDArray[np.uint8] = np.load(self.folder / IMAGES, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        is_set = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3) and images.size > 0
        return images if is_set else None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file, or an empty one if there is none that can be read."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def find_set_folders(root: Path) -> list[SetFolder]:
    """Return the sets below a folder, by name, at most MOST_SETS. Those that are not complete are left out."""
    found: list[SetFolder] = []
    for folder, inner, files in os.walk(root):
        path = Path(folder)
        if DESCRIPTION in files and IMAGES in files:
            description = read_json(path / DESCRIPTION)
            if is_description(description):
                found.append(SetFolder(path.relative_to(root).as_posix(), path, description))
        if DESCRIPTION in files or len(path.relative_to(root).parts) >= DEEPEST:
            inner.clear()
        if len(found) >= MOST_SETS:
            break
    return sorted(found, key=lambda one: one.name)


def is_description(document: Mapping[str, Any]) -> bool:
    """Return whether a document has what the pages show of an image set."""
    counts = [document.get(name) for name in ("train_count", "count")]
    texts = [document.get(name) for name in ("name", "fingerprint")]
    are_there = all(isinstance(text, str) for text in texts) and all(type(count) is int for count in counts)
    return are_there and 0 <= document["train_count"] <= document["count"]


def count_classes(report: Mapping[str, Any], names: Sequence[str]) -> dict[str, int | None]:
    """Return how many images each class has, None where the report does not say."""
    known = report.get("classes", {})
    return {name: known.get(name) for name in names} if isinstance(known, dict) else dict.fromkeys(names)
