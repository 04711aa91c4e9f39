"""Reads parquet files whose rows hold images, as the Hugging Face Hub stores them."""

import io
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from training.data.image_set import DataError
from training.data.own_images.layout import folder_labels
from training.data.own_images.names import SPLIT_FOLDERS
from training.data.own_images.records import LABEL_FIELDS, Label, plain_name
from training.data.own_images.source import Entry, Member, Source, Wanted, splits_of_files

ROWS = 64  # read at once
SPLITS = "|".join(SPLIT_FOLDERS)
SHARD = re.compile(rf"(?P<config>(?:.*/)?(?:[^/]*[-_.])?)(?P<split>{SPLITS})-\d{{5}}-of-\d{{5}}\.parquet")  # of the Hub
CONVERTED = re.compile(rf"(?P<config>(?:.*/)?)(?P<split>{SPLITS})/\d{{4}}\.parquet")  # as the Hub converts data sets
PARTITION = re.compile(r"([^/=]+)=([^/]*)")  # a folder of Hive
IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")
BYTES_COLUMNS = ("bytes", "image_bytes", "data")


class Parquet(Source):
    """The rows of parquet files: an image, {bytes, path} or bytes, and the fields of its record.

    Numbers of a ClassLabel column become its names, which the Hub stores in the metadata of the schema. A row is
    called FILE/ROW, because the Hub keeps no unique names.
    """

    def __init__(self, url: str, paths: Sequence[Path], root: Path) -> None:
        self.root, self.paths = root, sorted(paths)
        check_configurations([path.relative_to(root).as_posix() for path in self.paths], url)
        statuses = [(path, path.stat()) for path in self.paths]
        super().__init__(url, [Entry(str(path), s.st_size, str(s.st_mtime_ns)) for path, s in statuses])

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """See Source."""
        names = [path.relative_to(self.root).as_posix() for path in self.paths]
        labels = labels_of_folders(names)
        for path, name, split in zip(self.paths, names, splits_of_files(names), strict=True):
            stem = name.removesuffix(".parquet")
            for row, (image, ending, record) in enumerate(read_rows(path)):
                record = {"split": split, **record} if split else record
                if name in labels and not any(plain_name(field) in LABEL_FIELDS for field in record):
                    record["label"] = labels[name]
                yield Member(f"{stem}/{row:06}{ending}", image, f"{path}: row {row}", record=record)
            self.position += path.stat().st_size


def check_configurations(names: Sequence[str], url: str) -> None:
    """Raise DataError if files of one split belong to several configurations of a data set of the Hub."""
    found: dict[str, dict[str, None]] = {}
    for name in names:
        if match := SHARD.fullmatch(name) or CONVERTED.fullmatch(name):
            found.setdefault(match["split"], {})[match["config"]] = None
    for split, configs in found.items():
        if len(configs) > 1:
            one, other = list(configs)[:2]
            pattern = f"{one}*.parquet" if not one.endswith("/") else one
            raise DataError(
                f"data.root: {url} holds {len(configs)} configurations of a data set of the Hub, {one or '.'} and "
                f"{other or '.'} for example, which both have {split}; give one of them: {posixpath.join(url, pattern)}"
            )


def labels_of_folders(names: Sequence[str]) -> dict[str, Label]:
    """Return the labels that the folders of files mean: of Hive's partitions, label=cat for example, else by name."""
    partitions = {name: dict(PARTITION.findall(posixpath.dirname(name))) for name in names}
    labels: dict[str, Label] = {
        name: value
        for name, values in partitions.items()
        for field, value in values.items()
        if plain_name(field) in LABEL_FIELDS
    }
    plain = {re.sub(rf"{PARTITION.pattern}/", "", name): name for name in names}
    return labels or {plain[name]: label for name, label in folder_labels(plain).items()}


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
        raise DataError(f"data.root: {path} holds no images: {describe_columns(file.schema_arrow)}")
    classes = class_labels(file.schema_arrow)
    import pyarrow as pa

    read = False
    try:
        for batch in file.iter_batches(batch_size=ROWS):
            for row in batch.to_pylist():
                cell = row.pop(column)
                image = cell.get("bytes") if isinstance(cell, Mapping) else cell
                hint = str(cell.get("path") or "") if isinstance(cell, Mapping) else ""
                if image is None and hint and not read:
                    raise DataError(
                        f"data.root: {path} holds the paths of images ({hint}) and not their bytes; write the bytes "
                        "too, or call it metadata.parquet, with a column file_name, next to the images"
                    )
                read = True
                fields = dict(describe_cell(name, value) for name, value in row.items())
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
    """Return the column that holds images, or None: by its name, else the first of {bytes, path}, else of bytes."""
    import pyarrow as pa

    structs = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    binary = [f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
    named = (name for name in IMAGE_COLUMNS if name in structs or name in binary)
    return next(chain(named, structs, (name for name in BYTES_COLUMNS if name in binary), binary), None)


def describe_columns(schema: Any) -> str:
    """Return why none of the columns holds images."""
    import pyarrow as pa

    told = f"its columns are {', '.join(schema.names)}; "
    lists = [f.name for f in schema if pa.types.is_list(f.type) or pa.types.is_large_list(f.type)]
    if named := [name for name in lists if find_image_column(pa.schema([(name, schema.field(name).type.value_type)]))]:
        return f"{told}{named[0]} holds lists of images; write a row for each image"
    return f"{told}an image is bytes, or {{bytes, path}} as the Hugging Face Hub writes it, in a column such as image"


def describe_cell(name: str, value: Any) -> tuple[str, Any]:
    """Return a field and its value; of bytes and objects, which are not read, a field that says so."""
    if isinstance(value, bytes) or (isinstance(value, Mapping) and "bytes" in value):
        return f"{name} (bytes)", None
    return (f"{name} (an object)", None) if isinstance(value, Mapping) else (name, value)


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
