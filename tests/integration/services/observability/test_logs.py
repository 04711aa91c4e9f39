"""Logs of processes: a program can read them, a job can be followed through them, and they hold no secrets."""

import json
import logging
import sys
import threading
import time
import uuid
from typing import Any

import pytest

from services.observability import logs
from services.settings import load
from tests.support.processes import launch
from tests.support.stack import Stack
from training.errors import EXIT_UNEXPECTED

JSON = {"DARKROOM_LOG_FORMAT": "json"}
SECRET = "an-&-uncommon%20password"


def lines(text: str) -> list[dict[str, Any]]:
    """Parse every line."""
    return [json.loads(line) for line in text.splitlines()]


def test_a_job_is_followed_through_all_processes_by_its_trace(stack: Stack) -> None:
    with stack.process("dispatcher", **JSON) as dispatcher, stack.process("worker", **JSON) as worker:
        job = stack.submit({"items": [{"class_label": 1}], "images_per_item": 2, "steps": 4})
        assert stack.wait(job).state == "succeeded"
        worker.wait_for('done"')
    said = {name: lines(process.log.read_text()) for name, process in (("d", dispatcher), ("w", worker))}
    for process in said.values():
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in process)
        assert len({line["process"] for line in process if "process" in line}) == 1
    traced = {name: [line for line in of if line.get("trace_id") == job.hex] for name, of in said.items()}
    assert [line["message"] for line in traced["d"]] == [f"job {job} planned", f"job {job} succeeded"]
    starts, done = traced["w"]
    assert starts["message"].endswith("starts")
    assert done["message"].endswith("done")
    for line in (starts, done):
        assert (line["job"], line["queue"], line["tenant"]) == (str(job), "default", "default")
        assert isinstance(line["shard"], int)
        assert len(line["release"]) == 12


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_is_logged_when_services_are_unavailable(stack: Stack, form: str) -> None:
    """Libraries write the URL of a broker that does not answer."""
    away = {
        "DARKROOM_LOG_FORMAT": form,
        "DARKROOM_LOG_LEVEL": "DEBUG",
        "DARKROOM_BROKER_URL": f"redis://:{SECRET}@127.0.0.1:1/0",
    }
    first = "import logging, warnings; warnings.simplefilter('default')"
    log = stack.root / "logs" / f"away-{form}.log"
    child = launch("worker", log, first, {"DARKROOM_ROOT": str(stack.root), **away})
    try:
        deadline = time.monotonic() + 60
        while "Cannot connect to redis://" not in log.read_text():  # Celery tries for as long as the worker runs
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    text = log.read_text()
    assert "does not answer" in text
    assert form == "text" or "error" in {line["level"] for line in lines(text)}
    assert SECRET not in text
    for secret in logs.find_secrets(load("worker")):
        assert secret not in text


def test_secrets_are_masked_wherever_they_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any
) -> None:
    root = logging.getLogger()
    before, level, hooks = root.handlers[:], root.level, (threading.excepthook, sys.excepthook)
    monkeypatch.setenv("DARKROOM_ROOT", str(tmp_path))
    monkeypatch.setenv("DARKROOM_DATABASE_URL", "postgresql+psycopg://me:p%40ss-word@db/darkroom")
    monkeypatch.setenv("DARKROOM_BROKER_URL", "redis://:broker-word@broker/0")
    monkeypatch.setenv("DARKROOM_S3_BUCKET", "images")
    monkeypatch.setenv("DARKROOM_S3_ACCESS_KEY_ID", "key-id")
    monkeypatch.setenv("DARKROOM_S3_SECRET_ACCESS_KEY", "key-word")
    try:
        for form in ("text", "json"):
            monkeypatch.setenv("DARKROOM_LOG_FORMAT", form)
            logs.configure(load("worker"))
            logging.getLogger("a.library").warning("connecting with %s", "p@ss-word, p%40ss-word and key-word")
            thread = threading.Thread(target=fails, name="uploads")
            thread.start()
            thread.join()
            said = capsys.readouterr().err
            assert "***" in said
            assert not [word for word in ("p@ss-word", "p%40ss-word", "broker-word", "key-word") if word in said]
            assert "thread uploads has ended" in said
            assert "ValueError" in said
        first, second = lines(said)
        assert first["level"] == "warning"
        assert "Traceback" in second["exception"]
    finally:
        root.handlers[:], (threading.excepthook, sys.excepthook) = before, hooks
        root.setLevel(level)
        logging.captureWarnings(False)


def test_a_line_of_text_names_its_job_once() -> None:
    handler, job = logs.Handler(as_json=False, hidden=[]), uuid.uuid4()
    for words in ("no answer", f"job {job} begins"):
        record = logging.makeLogRecord({"name": "darkroom", "msg": words, **logs.job_fields(job)})
        assert handler.format(record).count(str(job)) == 1
    assert handler.format(logging.makeLogRecord({"msg": "no answer"})).endswith("no answer")


def test_a_password_is_masked_in_every_encoding() -> None:
    found = logs.find_passwords("postgresql://me:an-&-x!y@db/darkroom?sslpassword=other-word")
    assert {"an-&-x!y", "an-%26-x%21y", "other-word"} <= found


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_error_that_ends_a_process_is_masked(stack: Stack, form: str) -> None:
    """The message of this unexpected error holds a URL."""
    first = (
        "from services.process import celery_app\n"
        "def broken(settings): raise RuntimeError(settings.broker_url.get_secret_value())\n"
        "celery_app.make_app = broken"
    )
    log = stack.root / "logs" / f"broken-{form}.log"
    child = launch("worker", log, first, {"DARKROOM_ROOT": str(stack.root), "DARKROOM_LOG_FORMAT": form})
    assert child.wait(60) == EXIT_UNEXPECTED
    (text,) = log.read_text().splitlines()
    assert "RuntimeError" in text
    if form == "json":
        (line,) = lines(text)
        assert line["level"] == "critical"
        assert "RuntimeError" in line["exception"]
    broker = load("worker").broker_url
    assert broker is not None
    assert broker.get_secret_value() not in log.read_text()


def fails() -> None:
    raise ValueError("redis://:broker-word@broker/0 does not answer")
