"""Jobs whose items are the rows of Parquet files, through the real processes."""

import gzip
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.job_requests.parquet_stream import CODE
from tests.support.job_queue import call_function
from tests.support.stack import Process, Stack


@pytest.fixture(scope="module")
def dispatcher(stack: Stack) -> Iterator[Process]:
    with stack.process("dispatcher") as process:
        process.wait_for("serves")
        yield process


def put(stack: Stack, name: str, body: bytes) -> str:
    key = f"inputs/default/{name}"
    stack.store().put(key, body, content_type="application/octet-stream")
    return key


def parquet(columns: dict[str, Any], described: dict[str, Any] | None = None) -> bytes:
    table = pa.table(columns)
    if described:
        table = table.replace_schema_metadata({"pandas": json.dumps(described)})
    pq.write_table(table, buffer := io.BytesIO(), row_group_size=100)
    return buffer.getvalue()


def run(stack: Stack, **request: Any) -> Any:
    return stack.wait(stack.submit({"steps": 1, "seed": 5, **request}))


def read_manifest(stack: Stack, row: Any) -> Any:
    return json.loads(stack.store().get(row.manifest_key))


def read_listing(stack: Stack, row: Any) -> list[dict[str, Any]]:
    store = stack.store()
    return [json.loads(line) for key in read_manifest(stack, row)["outputs"] for line in store.get(key).splitlines()]


def test_the_rows_of_a_parquet_file_give_the_images_of_the_same_lines(
    stack: Stack, dispatcher: Process, worker: Process
) -> None:
    """Nulls are fields that a line does not have; the index of pandas is none."""
    items = [{"class_label": number % 10, "id": f"item-{number}"} for number in range(20)]
    items[3]["steps"] = 2
    items[4]["metadata"] = {"sku": "x"}
    columns = {
        "class_label": [item["class_label"] for item in items],
        "id": pa.array([item["id"] for item in items]).dictionary_encode(),
        "steps": pa.array([item.get("steps") for item in items], pa.float64()),
        "metadata": [item.get("metadata") for item in items],
        "__index_level_0__": list(range(20)),
    }
    described = {"index_columns": ["__index_level_0__"], "columns": [], "pandas_version": "2.2.0"}
    key = put(stack, "rows.parquet", parquet(columns, described))
    rows = run(stack, input_uri=f"s3://darkroom/{key}")
    lines = run(stack, input_uri=put(stack, "rows.jsonl", b"".join(json.dumps(one).encode() + b"\n" for one in items)))
    assert (rows.state, lines.state) == ("succeeded", "succeeded"), rows.reason
    assert stack.images(rows.id) == stack.images(lines.id)
    listed = read_listing(stack, rows)
    assert [line["id"] for line in listed] == [item["id"] for item in items]
    assert [line.get("metadata") for line in listed] == [item.get("metadata") for item in items]
    assert read_manifest(stack, rows)["plan"]["input"]["key"].startswith(f"outputs/default/{rows.id}/input-")


def test_a_prefix_may_have_parquet_files_and_lines(stack: Stack, dispatcher: Process, worker: Process) -> None:
    put(stack, "spark/_SUCCESS", b"")
    put(stack, "spark/part-0000.snappy.parquet", parquet({"class_label": [1, 2], "id": ["a", "b"]}))
    put(stack, "spark/part-0001.snappy.parquet", parquet({"class_label": [3, 77], "id": ["c", "d"]}))
    put(stack, "spark/part-0002.jsonl.gz", gzip.compress(b'{"class_label": 4, "id": "e"}'))
    put(stack, "spark/part-0003.parquet", parquet({"class_label": [5], "id": ["f"], "colour": ["red"]}))
    row = run(stack, input_uri="inputs/default/spark/")
    assert (row.state, row.total, row.failed) == ("partial", 6, 2), row.reason
    assert [line["id"] for line in read_listing(stack, row)] == ["a", "b", "c", "e"]
    errors = stack.store().get(read_manifest(stack, row)["errors"]).splitlines()
    first, second = (json.loads(line)["error"] for line in errors)
    assert first == (
        "line 2 of 'part-0001.snappy.parquet': class_label: 77 is not allowed; permitted: an integer from 0 to 9"
    )
    assert second.startswith("line 1 of 'part-0003.parquet': colour: not a known field; permitted: class_label, ")


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("short.parquet", lambda: parquet({"class_label": [1] * 99})[:-30],
         "input_uri: 'inputs/default/short.parquet' is a Parquet file that cannot be read: Parquet magic bytes"),
        ("key.parquet", lambda: b"PARE" + bytes(99) + b"PARE",
         "input_uri: 'inputs/default/key.parquet' is a Parquet file with an encrypted footer; permitted: lines of"),
        ("time.parquet", lambda: parquet({"class_label": pa.array([1], pa.duration("s"))}),
         "is a Parquet file that cannot be read: the column 'class_label' has the type duration[s]; permitted: bool"),
        ("none.parquet", lambda: parquet({"class_label": pa.array([], pa.int64())}), "has no lines; give one item"),
        ("packed.parquet.gz", lambda: gzip.compress(parquet({"class_label": [1]})), "is a Parquet file within a gzip"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry_run", [False, True])
def test_what_cannot_be_read_rejects_the_job_and_leaves_nothing(
    stack: Stack, dispatcher: Process, name: str, body: Any, reason: str, dry_run: bool
) -> None:
    row = run(stack, input_uri=put(stack, name, body()), dry_run=dry_run)
    assert row.state == "rejected"
    assert reason in row.reason
    assert list(stack.store().keys(f"outputs/default/{row.id}/")) == []
    uploads = stack.store().client.list_multipart_uploads(Bucket="darkroom", Prefix=f"outputs/default/{row.id}/")
    assert uploads.get("Uploads", []) == []


def test_a_dry_run_reads_rows_and_stores_nothing(stack: Stack, dispatcher: Process) -> None:
    row = run(stack, input_uri=put(stack, "dry.parquet", parquet({"class_label": [1, 2, 70]})), dry_run=True)
    assert row.state == "succeeded", row.reason
    assert (row.estimate["images"], row.estimate["invalid_items"]) == (2, 1)
    assert list(stack.store().keys(f"outputs/default/{row.id}/")) == []


def reader_of(process: Process) -> psutil.Process:
    """Wait until a dispatcher reads a Parquet file, and return the process that does."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(process.child.pid).children(recursive=True):
            if CODE in child.cmdline():
                return child
        time.sleep(0.01)
    raise AssertionError("no Parquet file was read")


def test_a_job_is_cancelled_while_its_file_is_read(stack: Stack, dispatcher: Process, worker: Process) -> None:
    """The process that reads it hangs; others are planned meanwhile."""
    key = put(stack, "long.parquet", parquet({"seed": list(range(500_000))}))
    job_id = stack.submit({"input_uri": key, "steps": 1})
    reader = reader_of(dispatcher)
    reader.suspend()
    assert run(stack, items=[{"class_label": 1}]).state == "succeeded"
    call_function(stack, "cancel_job", job_id)
    assert stack.wait(job_id).state == "cancelled"
    gone, _ = psutil.wait_procs([reader], timeout=20)
    assert gone


def test_a_reader_that_is_killed_rejects_its_job_alone(stack: Stack, dispatcher: Process) -> None:
    key = put(stack, "ended.parquet", parquet({"seed": list(range(500_000))}))
    job_id = stack.submit({"input_uri": key, "steps": 1})
    reader_of(dispatcher).kill()
    row = stack.wait(job_id)
    assert (row.state, dispatcher.child.poll()) == ("rejected", None)
    assert "'inputs/default/ended.parquet' is a Parquet file that ended the process that read it (sig" in row.reason
