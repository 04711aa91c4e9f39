"""Rows of Parquet files become lines of JSON: values of each type, or a reason that names the column and its type."""

import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.job_requests.parquet_rows import Refused, row_lines


def write(columns: dict[str, Any], **options: Any) -> io.BytesIO:
    pq.write_table(pa.table(columns), buffer := io.BytesIO(), **options)
    buffer.seek(0)
    return buffer


def rows(columns: dict[str, Any], **options: Any) -> list[Any]:
    return [json.loads(line) for line in row_lines(write(columns, **options))]


MOMENT = datetime(2024, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
PAIRS = pa.map_(pa.string(), pa.int64())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (pa.array([7], pa.uint8()), 7),
        (pa.array([2**62]), 2**62),
        (pa.array([1.5], pa.float32()), 1.5),
        (pa.array([0.1]), 0.1),
        (pa.array([1.5], pa.float16()), 1.5),
        (pa.array([True]), True),
        (pa.array(["a\n\"é🐈"]), "a\n\"é🐈"),
        (pa.array(["a"], pa.large_string()), "a"),
        (pa.array(["a"], pa.string_view()), "a"),
        (pa.array(["a"]).dictionary_encode(), "a"),
        (pa.array([b"\0\xff"]), "AP8="),
        (pa.array([b"ab"], pa.binary(2)), "YWI="),
        (pa.array([Decimal("12.00")]), 12),
        (pa.array([Decimal("12.50")]), 12.5),
        (pa.array([date(2024, 2, 3)]), "2024-02-03"),
        (pa.array([MOMENT]), "2024-02-03T04:05:06.000789+00:00"),
        (pa.array([MOMENT], pa.timestamp("ns", "Europe/Paris")), "2024-02-03T04:05:06.000789+00:00"),
        (pa.array([1], pa.timestamp("ns")), "1970-01-01T00:00:00"),
        (pa.array([MOMENT.replace(tzinfo=None)]), "2024-02-03T04:05:06.000789"),
        (pa.array([[[1, 2], []]]), [[1, 2], []]),
        (pa.array([[1.0, None]]), [1.0, None]),
        (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), [1, 2]),
        (pa.array([{"a": 1, "b": None, "c": {"d": [MOMENT]}}]),
         {"a": 1, "c": {"d": ["2024-02-03T04:05:06.000789+00:00"]}}),
        (pa.array([[("k", 1), ("z", None)]], PAIRS), {"k": 1, "z": None}),
        (pa.array([{"bytes": b"ab", "path": "x.png"}]), "YWI="),
    ],
)  # fmt: skip
def test_a_value_becomes_the_json_that_a_line_has(column: Any, value: Any) -> None:
    assert rows({"field": column}) == [{"field": value}]
    assert rows({"field": pa.concat_arrays([column, pa.nulls(1, column.type)])}) == [{"field": value}, {}]


def test_times_as_older_spark_writes_them_are_read() -> None:
    column = pa.array([MOMENT.replace(tzinfo=None)])
    (row,) = rows({"field": column}, use_deprecated_int96_timestamps=True)
    assert row == {"field": "2024-02-03T04:05:06.000789"}


def test_metadata_are_a_struct_a_map_or_text_with_json() -> None:
    texts = ['{"sku": [1, null]}', "no json", None, "[" * 100_000, r'{"a": "\ud800"}']
    lines = list(row_lines(write({"metadata": texts})))
    assert lines[0] == b'{"metadata": {"sku": [1, null]}}\n'
    assert [json.loads(line) for line in lines[1:4]] == [{"metadata": "no json"}, {}, {"metadata": "[" * 100_000}]
    assert lines[4] == b'{"metadata": {"a": "\\ud800"}}\n'
    assert rows({"metadata": pa.array(['{"a": 1}']).dictionary_encode()}) == [{"metadata": {"a": 1}}]
    assert rows({"caption": ['{"a": 1}']}) == [{"caption": '{"a": 1}'}]


def test_the_index_of_pandas_is_left_out() -> None:
    table = pa.table({"class_label": [1, 2], "__index_level_0__": ["x", "y"]})
    described = {"index_columns": ["__index_level_0__"], "columns": [], "pandas_version": "2.2.0"}
    table = table.replace_schema_metadata({"pandas": json.dumps(described)})
    pq.write_table(table, buffer := io.BytesIO())
    assert [json.loads(line) for line in row_lines(buffer)] == [{"class_label": 1}, {"class_label": 2}]


def test_rows_of_all_groups_come_in_their_order() -> None:
    numbers = list(range(5_000))
    assert rows({"seed": numbers}, row_group_size=700) == [{"seed": number} for number in numbers]
    assert rows({"seed": pa.array([], pa.int64())}) == []


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"wait": pa.array([timedelta(1)])}, "the column 'wait' has the type duration[us]; permitted: booleans, integ"),
        ({"a": [{"b": [timedelta(1)]}]}, "the column 'a.b' has the type duration[us]; permitted: booleans, integers"),
        ({"m": pa.array([[(1, 1)]], pa.map_(pa.int64(), pa.int64()))}, "the column 'm' has the type map<int64, int64"),
        ({"t": pa.array([2**61], pa.timestamp("us"))}, "a timestamp of 2305843009213693952000 ns after 1970 is not"),
    ],
)
def test_what_json_has_no_counterpart_for_is_refused_with_its_column(columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused) as error:
        rows(columns)
    assert str(error.value).startswith(reason)


def test_two_columns_of_one_name_are_refused() -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["seed", "seed"]), buffer := io.BytesIO())
    with pytest.raises(Refused) as error:
        list(row_lines(buffer))
    assert str(error.value) == "the column 'seed' is given twice; each column needs its own name"
