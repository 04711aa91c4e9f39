"""Folders and tars of small images, with and without annotations."""

import io
import json
import random
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.data.image_set import DataError, ImageSet

Files = dict[str, bytes]


def noise_png(number: int, size: tuple[int, int] = (12, 8), **options: Any) -> bytes:
    file = io.BytesIO()
    shape = (size[1], size[0], 3)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)).save(file, "PNG", **options)
    return file.getvalue()


def plane_png(values: Any, repeat: int = 1) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.kron(np.array(values), np.ones((repeat, repeat))).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def json_lines(*records: Mapping[str, Any]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def write_folder(root: Path, files: Files) -> str:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def write_tars(root: Path, files: Files, count: int = 1, seed: int | None = None) -> str:
    """Write the files into `count` tars, in their order or shuffled by `seed`. Returns the folder."""
    names = list(files)
    if seed is not None:
        random.Random(seed).shuffle(names)
    root.mkdir(parents=True, exist_ok=True)
    for part in range(count):
        with tarfile.open(root / f"{part:03}.tar", "w") as archive:
            for name in names[part::count]:
                info = tarfile.TarInfo(name)
                info.size = len(files[name])
                archive.addfile(info, io.BytesIO(files[name]))
    return str(root)


def read_report(made: ImageSet) -> dict[str, Any]:
    root = Path(made.images.filename).parent  # type: ignore[attr-defined]
    document: dict[str, Any] = json.loads((root / "report.json").read_text())
    return document


def preparation_error(make: Callable[..., ImageSet], source: str | Files, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        make(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


RECORDS: list[dict[str, Any]] = [
    {"file_name": "a.png", "text": "first", "label": "cat", "boxes": [{"label": "ear", "box": [2, 0, 6, 8]}]},
    {"file_name": "sub/b.png", "text": "second", "label": "dog", "boxes": [{"label": "tail", "box": [0, 0, 2.5, 3]}]},
    {"file_name": "sub/c.png", "text": "third", "label": "cat"},
]
ANNOTATED: Files = {
    "metadata.jsonl": json_lines(*RECORDS),
    "a.png": noise_png(1),
    "sub/b.png": noise_png(2),
    "sub/c.png": noise_png(3),
    "sub/d.png": noise_png(4),
    "a.map.png": plane_png([[1, 2, 3], [4, 5, 6]], 4),
    "sub/b.map.png": plane_png(np.full((8, 12), 9)),
    "sub/c.map.png": plane_png(np.full((8, 12), 2)),
    "a.mask.png": plane_png(np.full((8, 12), 255)),
    "sub/b.mask.png": plane_png(np.zeros((8, 12))),
    "sub/c.mask.png": plane_png(np.zeros((8, 12))),
}
