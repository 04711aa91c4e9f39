"""One line an event: for a person, or as JSON for a program. What a line is about is in fields; secrets are in none.

The trace id of a job is its UUID without dashes: 32 hexadecimal digits, as W3C Trace Context has them. So whoever
knows a job finds its lines in the logs of all processes, and nothing has to be handed from one to the next.
"""

import json
import logging
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import SecretStr

from services.settings import DatabaseSettings

FIELDS = ("process", "job", "shard", "queue", "tenant", "release", "trace_id")
HIDDEN = "***"
SHORTEST = 4  # a password of one letter would hide that letter everywhere


def job_fields(job_id: uuid.UUID) -> dict[str, str]:
    """The fields of a line about a job, as `extra`."""
    return {"job": str(job_id), "trace_id": job_id.hex}


def lease_fields(lease: Any) -> dict[str, object]:
    """The fields of a line about a leased piece of work, as `extra`."""
    fields = {**job_fields(lease.job_id), "shard": lease.id, "queue": lease.queue, "tenant": lease.tenant}
    return {**fields, "release": lease.pack_key[:12]} if lease.pack_key else fields


def configure(settings: DatabaseSettings) -> "Handler":
    """Send everything, also warnings and what ends a thread, to standard error as the settings say."""
    handler = Handler(settings.log_format == "json", secrets(settings))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    logging.captureWarnings(True)
    threading.excepthook, sys.excepthook = _thread_ended, _ended
    return handler


def as_json() -> bool:
    """Whether this process writes lines for a program."""
    return any(isinstance(one, Handler) and one.as_json for one in logging.getLogger().handlers)


def identify(process: uuid.UUID) -> None:
    """From now on this process's lines have its id."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Handler):
            handler.process = str(process)


def secrets(settings: DatabaseSettings) -> list[str]:
    """What must be in no line: secret values, and the passwords within those that are URLs. The longest first."""
    found = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            whole = value.get_secret_value()
            found.add(whole)
            if "://" in whole:
                found |= passwords(whole)
    return sorted((one for one in found if len(one) >= SHORTEST), key=len, reverse=True)


def passwords(url: str) -> set[str]:
    """The passwords of a URL, as it has them, and as libraries may write them."""
    parts = urlsplit(url)
    raw = [parts.password or "", *(value for name, value in parse_qsl(parts.query) if "password" in name)]
    plain = {unquote(one) for one in raw}
    return {*raw, *plain, *(quote(one, safe="") for one in plain), *(quote(one, safe=" +") for one in plain)} - {""}


class Handler(logging.StreamHandler[Any]):
    """Writes lines to standard error, without secrets."""

    def __init__(self, as_json: bool, hidden: Iterable[str]) -> None:
        super().__init__(sys.stderr)
        self.as_json, self.hidden = as_json, list(hidden)
        self.process: str | None = None
        self.plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s%(about)s")

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON; or a line of text, and an exception's lines after it."""
        if not self.as_json:
            job = str(getattr(record, "job", ""))
            record.about = f" (job {job})" if job not in record.getMessage() else ""
            return self._masked(self.plain.format(record))
        seconds, fraction = divmod(record.created, 1)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(fraction * 1000):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._masked(record.getMessage()),
        }
        known = {**vars(record), "process": self.process}  # logging's own `process` is the pid
        line |= {name: known[name] for name in FIELDS if known.get(name) is not None}
        if record.exc_info:
            line["exception"] = self._masked(self.plain.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)

    def _masked(self, text: str) -> str:
        for secret in self.hidden:
            text = text.replace(secret, HIDDEN)
        return text


def _ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("darkroom").critical("this process ends: %s", error, exc_info=(kind, error, trace))


def _thread_ended(arguments: threading.ExceptHookArgs) -> None:
    name = arguments.thread.name if arguments.thread else "?"
    error = arguments.exc_value or arguments.exc_type()
    log = logging.getLogger("darkroom.threads")
    log.critical("thread %s has ended: %s", name, error, exc_info=(type(error), error, arguments.exc_traceback))
