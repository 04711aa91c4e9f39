"""Hundreds of malformed requests, and thousands in `make chaos`: each is refused with a reason, or sampled."""

import copy
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tests.support.stack import Process, Stack, fresh_stack
from tests.support.thoroughness import THOROUGH

pytestmark = pytest.mark.long

REQUESTS, LINES, GOOD = (1_200, 1_000, 20) if THOROUGH else (300, 250, 5)

ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 2, 1.5, -0.0, 1e-300, 10**30, -(10**18), "", " ", "x", "1", "null", "x" * 3000,
    "é\u202e😀", "\u0001\u001b[31m", "'; DROP TABLE jobs; --", "$(reboot)", "{{7*7}}", "%s%n", "../../etc/passwd", "..",
    "/", "a//b", "s3://darkroom/outputs/other/x", "s3://darkroom/inputs/default/none.jsonl", "file:///etc/passwd", 
    "inputs/default", "http://169.254.169.254/", [], [[]], [None], ["x"] * 50, [0.9, 0.1], [0, 1, 2], {}, 
    {"a": {"b": []}}, {"": None}, {"__class__": "x"}, {"$ref": "#"}, {"class_label": 1},
)  # fmt: skip
FIELDS = (
    "items", "input_uri", "images_per_item", "seed", "steps", "solver", "spacing", "guidance_scale",
    "guidance_interval", "guidance_rescale", "format", "output_prefix", "class_label", "id", "metadata", "caption",
    "tenant", "state", "", "__proto__", "items[0]", "a.b", "\u0007", "x" * 500,
)  # fmt: skip
MODELS = ("tiny", "tiny@production", "tiny@1", "tiny@0", "tiny@-1", "@", "tiny@", "TINY", "tiny;--", "../tiny", "é",
          "tiny@99999999", "x" * 5000)  # fmt: skip
RAW = (
    '{"items":[{"class_label":1e400}],"steps":1}',
    '{"items":[{"class_label":1}],"steps":1,"seed":' + "9" * 5000 + "}",
    '{"items":[{"class_label":1}],"steps":1,"steps":2}',
    '{"items":[{"class_label":1,"metadata":{"x":' + "[" * 900 + "]" * 900 + '}}],"steps":1}',
    '{"items":' + "[" * 3000 + "]" * 3000 + "}",
    '{"items":[' + ",".join(['{"class_label":99}'] * 5000) + "]}",
    '{"items":[{"class_label":1}],"seed":"\\u0000"}',
    '{"items":[{"class_label":1}],"seed":"\\ud800"}',
    '{"items":[{"class_label":1}],' + ",".join(f'"f{i}":0' for i in range(20_000)) + "}",
    '{"items":[{"class_label":1.0}],"steps":1.0}',
    "[]", '"x"', "1", "null", "", "{", "NaN", "{'items': []}",
)  # fmt: skip
RAW_LINES = (
    b"", b"\xff\xfe\x00", b"{", b"nul", b"[]", b"\x00", b"{}{}", b"%s" * 9, b" " * 100, b"[" * 50_000,
    b'{"class_label": 1, "seed": NaN}', b'{"class_label": Infinity}', b'{"class_label": 1}\r',
    b'{"class_label": "' + b"x" * 10_000 + b'"}', b'{"class_label": 1, "id": "\\u0000"}',
    b'{"class_label": 1, "metadata": {"\\ud800": "\\u0000"}}',
)  # fmt: skip


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack of these tests alone: what others leave in a queue would be in the log that is read."""
    with fresh_stack() as running:
        running.commit_without_waiting()
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[psycopg.Connection]:
    """The submitter's login."""
    url = stack.settings("submitter").database_url.get_secret_value().replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def corrupt(draw: random.Random, value: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the value with a few random changes."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        place: Any = value
        while isinstance(place, dict | list) and place and draw.random() < 0.6:
            inner = place[draw.choice(list(place))] if isinstance(place, dict) else draw.choice(place)
            if not isinstance(inner, dict | list):
                break
            place = inner
        if isinstance(place, list):
            place.append(copy.deepcopy(draw.choice(ODD)))
            continue
        match draw.randrange(4):
            case 0 if place:
                place.pop(draw.choice(list(place)))
            case 1:
                place[draw.choice(FIELDS)] = copy.deepcopy(draw.choice(ODD))
            case _ if place:
                place[draw.choice(list(place))] = copy.deepcopy(draw.choice(ODD))
    return value


def test_a_malformed_request_is_refused_with_a_reason_or_sampled(
    stack: Stack, client: psycopg.Connection, dispatcher: Process, worker: Process
) -> None:
    """The INSERT is refused, the job is rejected, or it succeeds. Valid jobs next to it succeed."""
    draw = random.Random(0)
    base = {"items": [{"class_label": 1, "id": "a", "metadata": {"n": 1}}], "images_per_item": 1, "steps": 1, "seed": 3}
    good = {"items": [{"class_label": 2}], "images_per_item": 4, "steps": 2}
    good_jobs, jobs, refused = [], [], Counter[str | None]()
    sent = [(model, json.dumps(base)) for model in MODELS] + [("tiny", raw) for raw in RAW]
    sent += [("tiny", json.dumps(corrupt(draw, base))) for _ in range(REQUESTS - len(sent))]
    draw.shuffle(sent)
    for number, (model, request) in enumerate(sent):
        if number % (len(sent) // GOOD) == 0:
            good_jobs.append(stack.submit(good))
        try:
            row = client.execute(
                "INSERT INTO jobs (model, request) VALUES (%s, %s) RETURNING id", (model, request)
            ).fetchone()
        except psycopg.Error as error:
            refused[error.sqlstate] += 1
        else:
            assert row is not None
            jobs.append(row[0])
    assert set(refused) <= {"22P02", "22P05", "23514", "54000", "54001"}, refused
    for job_id in good_jobs:
        assert stack.wait(job_id, timeout=240).state == "succeeded"
    end = time.monotonic() + 240
    unfinished = "SELECT count(*) FROM jobs WHERE id = ANY(%s) AND finished_at IS NULL"
    while client.execute(unfinished, (jobs,)).fetchone() != (0,):
        assert time.monotonic() < end
        time.sleep(0.2)
    rows = client.execute("SELECT state, reason, request::text FROM jobs WHERE id = ANY(%s)", (jobs,)).fetchall()
    states = Counter(state for state, _, _ in rows)
    assert set(states) <= {"rejected", "succeeded"}, [row for row in rows if row[0] not in ("rejected", "succeeded")]
    assert states["rejected"] > REQUESTS / 2
    assert states["succeeded"] > REQUESTS / 24
    for state, reason, request in rows:
        if state == "rejected":
            assert reason, request
            assert len(reason) < 10_000
            assert all(line.isprintable() for line in reason.splitlines()), reason
            assert "Error" not in reason, (reason, request)
    assert_undisturbed(stack, [*jobs, *good_jobs], dispatcher, worker)


def test_a_malformed_line_is_listed_by_number_or_sampled(
    stack: Stack, client: psycopg.Connection, dispatcher: Process, worker: Process
) -> None:
    """Each line's image is stored or fails with a reason, and the job is partial."""
    draw = random.Random(1)
    base = {"class_label": 3, "seed": 5, "steps": 1, "guidance_scale": 1.5, "metadata": {"n": 1}}
    lines = [json.dumps(corrupt(draw, base)).encode() for _ in range(LINES)]
    lines[::10] = [RAW_LINES[number % len(RAW_LINES)] for number, _ in enumerate(lines[::10])]
    stack.store().put("inputs/default/malformed.jsonl", b"\n".join(lines), content_type="application/jsonl")
    beside = stack.submit({"items": [{"class_label": 2}], "images_per_item": 4, "steps": 2})
    job_id = stack.submit({"input_uri": "inputs/default/malformed.jsonl", "steps": 1})
    row = stack.wait(job_id, timeout=240)
    assert stack.wait(beside).state == "succeeded"
    assert (row.state, row.total) == ("partial", LINES), row.reason
    assert row.succeeded > LINES / 20
    assert row.failed > LINES / 2
    outputs = stack.outputs(job_id)
    assert [output.index for output in outputs] == list(range(LINES))
    for output in outputs:
        assert (output.key is None) == (output.error is not None)
        if output.error:
            assert output.error.startswith(f"line {output.item + 1}: ")
            assert output.error.isprintable()
    errors = stack.store().get(row.manifest_key.replace("manifest.json", "errors.jsonl")).decode().splitlines()
    assert [json.loads(line)["index"] for line in errors] == [output.index for output in outputs if output.error]
    assert_undisturbed(stack, [job_id, beside], dispatcher, worker)


def assert_undisturbed(stack: Stack, jobs: list[uuid.UUID], *processes: Process) -> None:
    """Assert that no process has ended, and that no work of the jobs was lost or retried."""
    for process in processes:
        assert process.child.poll() is None
        assert "Traceback" not in process.log.read_text()
    with stack.engine("migrator").connect() as connection:
        query = "SELECT count(*) FROM work WHERE (attempts > 0 OR losses > 0) AND job_id = ANY(:jobs)"
        assert connection.scalar(text(query), {"jobs": jobs}) == 0
