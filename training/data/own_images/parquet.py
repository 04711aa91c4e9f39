"""Reads parquet files whose rows hold images, as the Hugging Face Hub stores them."""

import io
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.data.image_set import DataError
from training.data.own_images.records import LABEL_FIELDS
from training.data.own_images.source import Entry, Member, Source, Wanted, splits_of_files

ROWS = 64  # read at once
IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "bytes", "image_bytes", "data")


class Parquet(Source):
    """The rows of parquet files: an image, {bytes, path} or bytes, and the fields of its record.

    Numbers of a ClassLabel column become its names, which the Hub stores in the metadata of the schema. A row is
    called FILE/ROW, because the Hub keeps no unique names.
    """

    def __init__(self, url: str, paths: Sequence[Path], root: Path) -> None:
        self.root, self.paths = root, sorted(paths)
        statuses = [(path, path.stat()) for path in self.paths]
        super().__init__(url, [Entry(str(path), s.st_size, str(s.st_mtime_ns)) for path, s in statuses])

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """See Source."""
        names = [path.relative_to(self.root).as_posix() for path in self.paths]
        for path, name, split in zip(self.paths, names, splits_of_files(names), strict=True):
            stem = name.removesuffix(".parquet")
            for row, (image, ending, record) in enumerate(read_rows(path)):
                record = {"split": split, **record} if split else record
                yield Member(f"{stem}/{row:06}{ending}", image, f"{path}: row {row}", record=record)
            self.position += path.stat().st_size


def is_parquet(name: str) -> bool:
    """Return whether a file of this name is a parquet file."""
    return name.lower().endswith(".parquet")


def read_table(data: bytes, origin: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file without images. Raises DataError."""
    file = open_file(io.BytesIO(data), origin)
    classes = class_labels(file.schema_arrow)
    for batch in file.iter_batches(batch_size=1024):
        yield from (name_classes(row, classes) for row in batch.to_pylist())


def read_rows(path: Path) -> Iterator[tuple[bytes, str, dict[str, Any]]]:
    """Yield the image of each row, the ending of its name and its record. Raises DataError."""
    file = open_file(path, str(path))
    column = find_image_column(file.schema_arrow)
    if column is None:
        raise DataError(
            f"data.root: {path} holds no images: its columns are {', '.join(file.schema_arrow.names)}; an image is "
            f"bytes, or {{bytes, path}} as the Hugging Face Hub writes it, in a column such as image"
        )
    classes = class_labels(file.schema_arrow)
    import pyarrow as pa

    try:
        for batch in file.iter_batches(batch_size=ROWS):
            for row in batch.to_pylist():
                cell = row.pop(column)
                image = cell.get("bytes") if isinstance(cell, Mapping) else cell
                hint = str(cell.get("path") or "") if isinstance(cell, Mapping) else ""
                fields = {name: None if isinstance(value, bytes | Mapping) else value for name, value in row.items()}
                yield image or b"", posixpath.splitext(hint)[1].lower(), name_classes(fields, classes)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"data.root: {path} is damaged ({' '.join(str(error).split())[:200]}); copy it again") from None


def open_file(file: Path | io.BytesIO, path: str) -> Any:
    """Open a parquet file. Raises DataError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"data.root: {path} is a parquet file, which needs pyarrow; pip install pyarrow") from None
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"data.root: {path} is not a complete parquet file ({' '.join(str(error).split())[:200]}); "
                        "it is damaged, copy it again") from None  # fmt: skip


def find_image_column(schema: Any) -> str | None:
    """Return the name of the column that holds images, or None: {bytes, path} first, then bytes by name."""
    import pyarrow as pa

    structs = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    binary = [f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
    named = [name for name in IMAGE_COLUMNS if name in structs] or structs
    return next(iter(named or [name for name in IMAGE_COLUMNS if name in binary] or binary[:1]), None)


def class_labels(schema: Any) -> dict[str, list[str]]:
    """Return the names of the classes of each ClassLabel column, from the metadata that the Hub stores."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: list(one["names"]) for name, one in info.items() if one.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def name_classes(row: dict[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return a row with the names of its classes. The first ClassLabel is the label if no other column is."""
    for field, names in classes.items():
        number = row.get(field)
        if isinstance(number, int):  # the Hub stores -1 where a label is unknown
            row[field] = names[number] if 0 <= number < len(names) else None
    if classes and not any(field in row for field in LABEL_FIELDS):
        row["label"] = row.pop(next(iter(classes)), None)
    return row
