"""Writes the rows of a Parquet file as lines of JSON, in a process of its own, which a hostile file may end.

`python -m services.job_requests.parquet_rows` reads the file from its standard input, which must be seekable. What it
refuses it says in the last line of its standard error. It ends with the thread that started it.
"""

import base64
import ctypes
import json
import os
import re
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

REFUSED = 3  # the exit code
MEMORY = 384 * 2**20  # bytes that reading may take, beyond those of the libraries
CPU_S = 180  # of the processor
FILE_BYTES = 2**16  # that it may write to a file
OPEN_FILES = 16  # sockets included
BATCH_BYTES = 4 * 2**20  # of rows that are held at once, unless one row is larger
BATCH_ROWS = 1_000
METADATA = "metadata"  # the field that may be text with JSON
INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls an index without a name
PICTURE = {"bytes", "path"}  # the fields of an image as Hugging Face's `datasets` writes it
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 1_000, "ns": 1}
DEATH_SIGNAL, NO_NEW_PRIVILEGES = 1, 38  # PR_SET_PDEATHSIG and PR_SET_NO_NEW_PRIVS of prctl(2)
PERMITTED = (
    "booleans, integers, floats, decimals, text, binary data, dates, timestamps, and lists, structs and maps of them"
)

Convert = Callable[[Any], Any]


class Refused(Exception):
    """The file cannot be an input."""


def row_lines(source: BinaryIO) -> Iterator[bytes]:
    """Yield the rows of a Parquet file as lines of JSON, some at a time. Raises Refused and errors of pyarrow."""
    import pyarrow.parquet as pq

    # Page by page: a column of a row group may have all bytes of the file.
    file = pq.ParquetFile(
        source, buffer_size=2**16, pre_buffer=False, page_checksum_verification=True, coerce_int96_timestamp_unit="us"
    )
    fields = [field for field in file.schema_arrow if not INDEX.fullmatch(field.name)]
    names = [field.name for field in fields]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise Refused(f"the column {twice[0][:100]!r} is given twice; each column needs its own name")
    converts = {field.name: _converter(field.name, field.type) for field in fields}
    if METADATA in converts and _is_text(file.schema_arrow.field(METADATA).type):
        converts[METADATA] = _parse_text
    for group in range(file.num_row_groups):
        facts = file.metadata.row_group(group)
        size = min(max(BATCH_BYTES * facts.num_rows // max(facts.total_byte_size, 1), 1), BATCH_ROWS)
        count = 0
        for batch in file.iter_batches(size, row_groups=[group], use_threads=False):
            columns = [_values(batch.column(name), converts[name]) for name in names]
            count += batch.num_rows
            for number in range(batch.num_rows):
                row = zip(names, (column[number] for column in columns), strict=True)
                item = {name: value for name, value in row if value is not None}
                # Halves of characters from JSON in a text stay escaped, and are refused in their line alone.
                yield json.dumps(item, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        if count != facts.num_rows:
            raise Refused(f"row group {group} has {count} rows, and its footer says {facts.num_rows}; write it again")


def _values(array: Any, convert: Convert) -> list[Any]:
    """Return the values of a column for JSON; None for null."""
    plain = _plain_type(array.type)
    values = (array if plain == array.type else array.cast(plain)).to_pylist(maps_as_pydicts="lossy")
    return [None if value is None else convert(value) for value in values]


def _plain_type(kind: Any) -> Any:
    """Return a type with integers for timestamps, because Python has no nanoseconds."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return pa.int64()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    if _is_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain_type(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, kind.item_field.with_type(_plain_type(kind.item_type)))
    return kind


def _converter(column: str, kind: Any) -> Convert:
    """Return what makes a value that is not null fit for JSON. Raises Refused for a type that has no counterpart."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _converter(column, kind.value_type)
    same = (types.is_boolean, types.is_integer, types.is_floating, types.is_null)
    if _is_text(kind) or any(is_kind(kind) for is_kind in same):
        return _same
    if types.is_decimal(kind):
        return lambda value: int(value) if value == int(value) else float(value)
    if _is_binary(kind):
        return _encode
    if types.is_date(kind):
        return lambda value: value.isoformat()
    if types.is_timestamp(kind):
        unit, zone = NANOSECONDS[kind.unit], kind.tz is not None
        return lambda value: _write_time(value * unit, zone)
    if types.is_struct(kind):
        names = [field.name for field in kind]
        if set(names) == PICTURE and _is_binary(kind.field("bytes").type):
            return lambda value: None if value["bytes"] is None else _encode(value["bytes"])
        if len(set(names)) < len(names):
            raise Refused(f"the column {column[:100]!r} has two fields of the same name; each needs its own")
        inner = {field.name: _converter(f"{column}.{field.name}", field.type) for field in kind}
        return lambda value: {name: inner[name](part) for name, part in value.items() if part is not None}
    if _is_list(kind):
        of_values = _converter(column, kind.value_type)
        return lambda value: [None if part is None else of_values(part) for part in value]
    if types.is_map(kind) and _is_text(kind.key_type):
        of_items = _converter(column, kind.item_type)
        return lambda value: {name: None if part is None else of_items(part) for name, part in value.items()}
    raise Refused(f"the column {column[:100]!r} has the type {str(kind)[:100]}; permitted: {PERMITTED}")


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )  # fmt: skip


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _same(value: Any) -> Any:
    return value


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _parse_text(value: str) -> Any:
    """Return the JSON of a text, or the text, which the check of the item then refuses."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _write_time(nanoseconds: int, zone: bool) -> str:
    """Return a time in ISO 8601, in UTC if it has a zone. Python's times have microseconds and the years 1 to 9999."""
    try:
        moment = EPOCH + timedelta(microseconds=nanoseconds // 1_000)
    except OverflowError:
        raise Refused(
            f"a timestamp of {nanoseconds} ns after 1970 is not allowed; permitted: years 1 to 9999"
        ) from None
    return (moment if zone else moment.replace(tzinfo=None)).isoformat()


def main() -> None:
    """Write the rows of the file in the standard input."""
    prctl = ctypes.CDLL(None).prctl
    prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    with suppress(OSError):  # a sandbox may not have it
        Path("/proc/self/oom_score_adj").write_text("1000")  # ended before the process that started it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    import pyarrow as pa
    import pyarrow.parquet  # its memory is that of the libraries

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # it reads without further threads
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        with open(0, "rb", closefd=False) as source, open(1, "wb", closefd=False) as out:
            for line in row_lines(source):
                out.write(line)
    except BrokenPipeError:
        os._exit(1)
    except MemoryError:
        _refuse(f"reading it takes more than {MEMORY} bytes of memory; permitted: smaller pages and rows")
    except (Refused, pa.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        _refuse(" ".join(str(error).split()) or type(error).__name__)


def _refuse(reason: str) -> None:
    sys.stderr.write(f"\n{reason[:500]}\n")
    sys.stderr.flush()
    os._exit(REFUSED)


if __name__ == "__main__":
    main()
