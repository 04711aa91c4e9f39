"""Lines of a stream, however it is cut, and the reasons for which a line is refused."""

import random

import pytest

from services.job_requests import items
from services.job_requests.items import ItemReader, Line
from services.job_requests.schema import Limits, RequestError

CONDITIONS = {
    "type": "object",
    "properties": {"class_label": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["class_label"],
}
LIMITS = Limits(("outputs/a",), ("inputs/a",), bucket="darkroom")


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
        (b'{"class_label": 1, "seed": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"class_label": 1, "guidance_scale": NaN}', "not JSON: NaN is not a number"),
        (b'{"class_label": 1, "guidance_scale": 1e999}', "guidance_scale: inf is not allowed"),
        (b'{"class_label": 1, "a\\u0000b": 1}', "'a\\x00b': not a known field"),
        (b'{"class_label": 1, "\\ud800": 1}', "'\\ud800': not a known field"),
        (b"[1]", "not a JSON object"),
        (b"{}", "class_label: missing; give an integer from 0 to 9"),
        (b'{"class_label": 12}', "class_label: 12 is not allowed; permitted: an integer from 0 to 9"),
        (b'{"class_label": 1, "prompt": "x"}', "prompt: not a known field; permitted: class_label"),
        (b'{"class_label": 1, "seed": -1}', "seed: -1 is not allowed"),
        (None, "a line of 5000000 bytes is not allowed; permitted: at most 4194304 bytes"),
    ],
)
def test_an_invalid_line_is_refused_with_a_reason(body: bytes | None, message: str) -> None:
    with pytest.raises(RequestError) as error:
        ItemReader(CONDITIONS, LIMITS).read(Line(0, 0, 5_000_000, body))
    assert message in str(error.value)


def test_an_item_is_read() -> None:
    line = Line(0, 0, 0, b'{"class_label": 3, "id": "a"}')
    assert ItemReader(CONDITIONS, LIMITS).read(line) == {"class_label": 3, "id": "a"}
