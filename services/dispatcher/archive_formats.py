"""The formats of archives: tars as WebDataset reads them, and Parquet files as Hugging Face's `datasets` does.

Both have the same JSON of each image. The same images give the same bytes with the same version of the library.
"""

import io
import json
from collections.abc import Callable
from typing import Any, Protocol

from services.job_queue.outputs import Output
from services.job_queue.plan import Item
from services.storage.tar import END, member_bytes, padded_size

GROUP_IMAGES = 100  # of a row group of a Parquet file, as the Hub writes them
GROUP_BYTES = 8 * 2**20  # of its images; one image alone may be larger
TEXTS = ("id", "class_label", "caption")  # fields of items that are columns of a Parquet file, as text

Write = Callable[[bytes], None]


def image_line(image: Output, item: Item) -> bytes:
    """Return the JSON beside an image in an archive: its line of the listing, and the short fields of its item."""
    own = {"index": image.index, "item": image.item, "seed": image.seed, "key": image.key}
    return json.dumps({**item, **own, "sha256": image.sha256, "profile": image.profile}).encode()


def sample_size(image: Output, line: bytes) -> int:
    """Return the bytes of an image and its JSON in a tar. In a Parquet file they take fewer."""
    assert image.bytes is not None
    return padded_size(image.bytes) + padded_size(len(line))


def file_name(image: Output) -> str:
    """Return the name of an image in an archive."""
    assert image.key is not None
    return f"{image.index:08d}.{image.key.rsplit('.', 1)[1]}"


class ArchiveFormat(Protocol):
    """Writes one archive. It is complete after `close`."""

    content_type: str

    def __init__(self, write: Write) -> None:
        """write: takes the archive's bytes, piece by piece."""

    def add(self, image: Output, body: bytes, item: Item) -> None:
        """Append an image. item: its short fields."""

    def close(self) -> None:
        """Write the end of the archive."""


class TarArchive:
    """A tar with two files for each image: 00000007.png and 00000007.json."""

    content_type = "application/x-tar"

    def __init__(self, write: Write) -> None:
        self._write = write

    def add(self, image: Output, body: bytes, item: Item) -> None:
        """See ArchiveFormat."""
        self._write(member_bytes(file_name(image), body))
        self._write(member_bytes(f"{image.index:08d}.json", image_line(image, item)))

    def close(self) -> None:
        """See ArchiveFormat."""
        self._write(END)


class ParquetArchive:
    """A Parquet file with a row for each image: {bytes, path}, its fields, and all of them as JSON."""

    content_type = "application/vnd.apache.parquet"

    def __init__(self, write: Write) -> None:
        import pyarrow as pa  # takes 30 MiB, which a dispatcher without such a job does not need
        import pyarrow.parquet as pq

        integers, texts = ("index", "item", "seed"), (*TEXTS, "sha256", "json")
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        features: dict[str, Any] = {"image": {"_type": "Image"}}
        features |= {name: {"dtype": "int64", "_type": "Value"} for name in integers}
        features |= {name: {"dtype": "string", "_type": "Value"} for name in texts}
        columns = [("image", image), *((name, pa.int64()) for name in integers)]
        columns += [(name, pa.string()) for name in texts]
        hub = json.dumps({"info": {"features": features}})  # tells `datasets` which column has images
        self._schema = pa.schema(columns, metadata={"huggingface": hub})
        self._table = pa.Table
        # Images are compressed already, and a dictionary or bounds of them would double the file.
        self._writer = pq.ParquetWriter(
            pa.PythonFile(_Pipe(write), mode="w"), self._schema,
            compression="NONE", use_dictionary=False, write_statistics=list(integers),
        )  # fmt: skip
        self._rows: list[dict[str, Any]] = []
        self._size = 0

    def add(self, image: Output, body: bytes, item: Item) -> None:
        """See ArchiveFormat."""
        if self._rows and (len(self._rows) == GROUP_IMAGES or self._size + len(body) > GROUP_BYTES):
            self._write_group()
        texts = {name: str(item[name]) for name in TEXTS if isinstance(item.get(name), str | int)}
        own = {"index": image.index, "item": image.item, "seed": image.seed, "sha256": image.sha256}
        picture = {"bytes": body, "path": file_name(image)}
        self._rows.append({"image": picture, **own, **texts, "json": image_line(image, item).decode()})
        self._size += len(body)

    def close(self) -> None:
        """See ArchiveFormat."""
        if self._rows:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._size = [], 0


class _Pipe(io.RawIOBase):
    """A file without a place of its own: what is written to it goes on."""

    def __init__(self, write: Write) -> None:
        self._write, self._position = write, 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, content: Any) -> int:
        body = bytes(content)
        self._write(body)
        self._position += len(body)
        return len(body)


FORMATS: dict[str, type[ArchiveFormat]] = {"tar": TarArchive, "parquet": ParquetArchive}
