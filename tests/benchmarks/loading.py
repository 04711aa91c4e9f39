"""The data loader compared with WebDataset and a plain folder: `python -m tests.benchmarks.loading [--count 2000]`.

All three read the same scenes of 64x64 pixels, stored as PNG, in shuffled batches of float tensors [R, 3, 64, 64] with
their captions: from a prepared set (decoded once, by `training.prepare`), from a folder that is decoded in every epoch,
and from a tar that WebDataset decodes with a shuffle buffer. One process without workers; medians of runs in turn.
"""

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.data import shapes
from training.data.batches import Batches, keep_batch
from training.data.conditions import Requests
from training.data.image_set import ImageSet
from training.data.own_images import prepare
from training.data.rows import ImageRows
from training.model.pixels import to_unit

SIDE = 64


def decode_png(body: bytes) -> Tensor:
    """Decode a PNG to a tensor [3, H, W] in [-1, 1]."""
    pixels = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
    return to_unit(torch.from_numpy(pixels[None].copy()))[0]


class Folder(Dataset[tuple[Tensor, str]]):
    """A folder with metadata.jsonl, read as the ImageFolder of torchvision and of the datasets library reads it."""

    def __init__(self, root: Path) -> None:
        lines = (root / "metadata.jsonl").read_text().splitlines()
        self.rows = [(root / one["file_name"], one["text"]) for one in map(json.loads, lines)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        path, text = self.rows[index]
        return decode_png(path.read_bytes()), text


def write_scenes(scenes: ImageSet, root: Path) -> tuple[Path, Path]:
    """Write the set as a folder and as a tar. Returns both paths."""
    folder, tar = root / "folder", root / "scenes.tar"
    folder.mkdir()
    with tarfile.open(tar, "w") as archive, (folder / "metadata.jsonl").open("w") as metadata:
        for image, record in zip(scenes.images, scenes.records, strict=True):
            body = io.BytesIO()
            Image.fromarray(image).save(body, "PNG")
            members = {"png": body.getvalue(), "txt": record["text"].encode()}
            (folder / f"{record['name']}.png").write_bytes(members["png"])
            metadata.write(json.dumps({"file_name": f"{record['name']}.png", "text": record["text"]}) + "\n")
            for extension, content in members.items():
                about = tarfile.TarInfo(f"{record['name']}.{extension}")
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    return folder, tar


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    batch = options.batch
    with tempfile.TemporaryDirectory() as name:
        scenes = shapes.prepare(Path(name) / "scenes", count=options.count, image_size=SIDE)
        folder, tar = write_scenes(scenes, Path(name))
        start = time.perf_counter()
        quiet = Console(file=io.StringIO())
        prepared = prepare.prepare_once(
            str(folder), Path(name) / "ready", prepare.Settings(SIDE, held_out=0.0), console=quiet
        )
        once = time.perf_counter() - start
        steps = options.count // batch
        read = ImageRows(prepared, requests=Requests({"caption": "text"}))

        def ours() -> Iterator[Any]:
            batches = Batches(read, count=options.count, batch_size=batch, seed=0, steps=steps)
            return iter(DataLoader(batches, batch_size=None, sampler=range(steps), collate_fn=keep_batch))

        def plain() -> Iterator[Any]:
            return iter(DataLoader(Folder(folder), batch_size=batch, shuffle=True, drop_last=True))

        def web() -> Iterator[Any]:
            source = webdataset.WebDataset(str(tar), shardshuffle=False).shuffle(1000)
            mapped = source.to_tuple("png", "txt").map_tuple(decode_png, lambda text: text.decode())
            return iter(mapped.batched(batch, partial=False))

        runs: dict[str, Callable[[], Iterator[Any]]] = {"prepared set": ours, "WebDataset": web, "plain folder": plain}
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.repeats):
            for run, begin in runs.items():
                start = time.perf_counter()
                seen = sum(batch for _ in begin())
                rates[run].append(seen / (time.perf_counter() - start))
    table = Table(title=f"{options.count} PNG of {SIDE}x{SIDE}, batches of {batch}, median of {options.repeats}")
    for column in ("loader", "samples/s", "times the plain folder"):
        table.add_column(column)
    medians = {run: statistics.median(values) for run, values in rates.items()}
    for run, rate in medians.items():
        table.add_row(run, f"{rate:,.0f}", f"{rate / medians['plain folder']:.1f}")
    Console().print(table)
    print(f"preparing the set, once: {once:.1f} s, {options.count / once:,.0f} pictures/s")


if __name__ == "__main__":
    main()
