"""Lines of a stream, however it is cut, and the reasons for which a line is refused."""

import bz2
import gzip
import io
import random
import zipfile

import pytest

from services.job_requests import items
from services.job_requests.items import ItemReader, Line
from services.job_requests.schema import Limits, plan_request
from services.job_requests.seen_ids import SeenIds
from services.job_requests.strict_json import RequestError

CONDITIONS = {
    "type": "object",
    "properties": {"class_label": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["class_label"],
}
LIMITS = Limits(("outputs/a",), ("inputs/a",), bucket="darkroom")
PLAN = plan_request({"input_uri": "inputs/a/x", "eta": 0.5, "solver": "ddim"}, CONDITIONS, LIMITS)


def test_lines_are_the_same_however_the_stream_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "MAX_LINE", 12)
    draw = random.Random(0)
    for _ in range(300):
        parts = [bytes(draw.choices(b"abc\r ", k=draw.choice([0, 1, 5, 12, 13, 40]))) for _ in range(draw.randrange(9))]
        body = b"\n".join(parts) + draw.choice([b"", b"\n"])
        cuts = sorted(draw.choices(range(len(body) + 1), k=draw.randrange(6)))
        chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        found = list(items.split_lines(iter(chunks)))
        wanted = body.split(b"\n")
        wanted = wanted[:-1] if not wanted[-1] else wanted
        assert [line.number for line in found] == list(range(len(wanted)))
        assert [body[line.start : line.stop] for line in found] == wanted
        assert [line.body for line in found] == [part if len(part) <= 12 else None for part in wanted]


def test_lines_can_be_read_from_the_middle() -> None:
    assert list(items.split_lines(iter([b"x\ny"]), number=7, start=100)) == [
        Line(7, 100, 101, b"x"),
        Line(8, 102, 103, b"y"),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"class_label": 1, "metadata": {"x": ' + b"[" * 500 + b"]" * 500 + b"}}", "nested too deeply"),
        (b'{"class_label": 1, "seed": ' + b"9" * 5000 + b"}", "an integer of 5000 digits is not allowed"),
        (b'{"class_label": 1, "seed": ' + b"9" * 309 + b"}", "an integer of 309 digits is not allowed; permitted: "),
        (b'{"class_label": 1, "guidance_scale": NaN}', "not JSON: NaN is not a number"),
        (b'{"class_label": 1, "guidance_scale": 1e999}', "the number 1e999 is not allowed; permitted: up to 1.79"),
        (b'{"class_label": 1, "a\\u0000b": 1}', "'a\\x00b' is not allowed; permitted: text without NUL"),
        (b'{"class_label": 1, "\\ud800": 1}', "'\\ud800' is not allowed; permitted: text without NUL"),
        (b'{"class_label": 1, "metadata": {"price": -1e400}}', "the number -1e400 is not allowed; permitted: up to"),
        (b'{"class_label": 1, "metadata": {"a": ["\\uDfff"]}}', "metadata.a[0]: '\\udfff' is not allowed"),
        (b'{"class_label": 1, "id": "\\u0000"}', "id: '\\x00' is not allowed"),
        (b'{"class_label": 1, "id": "\xed\xa0\x80"}', "not JSON: byte 27 is not UTF-8"),
        (
            b'{"class_label": 1, "metadata": {"x": "' + b"y" * 16_376 + b'"}}',
            "metadata: 16385 bytes of JSON are not all",
        ),
        (b"[1]", "[1] is not allowed; permitted: a JSON object"),
        (b"{}", "class_label: missing; give an integer from 0 to 9"),
        (b'{"class_label": 12}', "class_label: 12 is not allowed; permitted: an integer from 0 to 9"),
        (b'{"class_label": 1, "prompt": "x"}', "prompt: not a known field; permitted: class_label"),
        (b'{"class_label": 1, "seed": -1}', "seed: -1 is not allowed"),
        (b'{"class_label": 1, "solver": "lms"}', "eta: 0.5 is not allowed; permitted: 0 with the solver lms"),
        (None, "a line of 5000000 bytes is not allowed; permitted: at most 4194304 bytes"),
    ],
)
def test_an_invalid_line_is_refused_with_a_reason(body: bytes | None, message: str) -> None:
    with pytest.raises(RequestError) as error:
        ItemReader(CONDITIONS, LIMITS, PLAN).read(Line(0, 0, 5_000_000, body))
    assert message in str(error.value)


def test_an_item_is_read() -> None:
    line = Line(0, 0, 0, b'{"class_label": 3, "id": "a"}')
    assert ItemReader(CONDITIONS, LIMITS, PLAN).read(line) == {"class_label": 3, "id": "a"}


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"class_label": 1}',
        b'{"class_label": 1}\r',
        b'{"class_label": 2, "class_label": 1}',
        b'{"class_label": 1, "id": "\\ud83d\\ude00"}',
        b'{"class_label": 1, "metadata": {"x": "\\\\u0000", "y": 1e308, "z": ' + b"9" * 300 + b"}}",
        b'{"class_label": 1, "metadata": {"x": "' + b"y" * 16_375 + b'"}}',
    ],
)
def test_unusual_lines_are_read(body: bytes) -> None:
    assert ItemReader(CONDITIONS, LIMITS, PLAN).read(Line(0, 0, 0, body))["class_label"] == 1


@pytest.mark.parametrize("body", [b"", b"\n", b"a", b"a\n", b"a\n\nb", b"\n\n\n"])
def test_lines_are_counted_as_they_are_split(body: bytes) -> None:
    for cut in range(len(body) + 1):
        chunks = [chunk for chunk in (body[:cut], body[cut:]) if chunk]
        assert list(items.count_lines(chunks))[-1] == len(list(items.split_lines(iter(chunks))))


def test_ids_are_seen_once_in_little_memory() -> None:
    ids = SeenIds(3_000)
    assert all(ids.add(f"id-{number}") for number in range(3_000))
    assert not any(ids.add(f"id-{number}") for number in range(3_000))


def zipped() -> bytes:
    """A ZIP archive of a file without a line."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("lines.jsonl", "")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (gzip.compress(b"{}", mtime=0), "a gzip file within a gzip file"),
        (zipped(), "a ZIP archive"),
        (bz2.compress(b"{}"), "a bzip2 file"),
        (b"PARE" + bytes(99), "a Parquet file with an encrypted footer"),
    ],
)
def test_an_input_that_is_compressed_is_named_as_such(body: bytes, what: str) -> None:
    """Nobody would see it from the error of its first line, and nothing unpacks it. A gzip file is unpacked once."""
    with pytest.raises(RequestError) as error:
        items.refuse_compressed("inputs/a/x", body)
    permitted = "lines of JSON in UTF-8, plain or gzip, or Parquet"
    assert str(error.value) == f"input_uri: 'inputs/a/x' is {what}; permitted: {permitted}"
    items.refuse_compressed("inputs/a/x", b'{"class_label": 1}')
