"""Log lines, as text or JSON: one line per event, with fields and without secrets.

The trace id of a job is its UUID without dashes: 32 hexadecimal digits, as W3C Trace Context defines them. A job's id
therefore finds its lines in the logs of every process, and processes need not pass a trace id to each other.
"""

import json
import logging
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import SecretStr

from services.settings import DatabaseSettings

FIELDS = ("process", "job", "shard", "queue", "tenant", "release", "trace_id")
HIDDEN = "***"
MIN_SECRET_LENGTH = 4  # masking a password of one letter would mask that letter everywhere


def job_fields(job_id: uuid.UUID) -> dict[str, str]:
    """Return the fields of a line about a job, for `extra`."""
    return {"job": str(job_id), "trace_id": job_id.hex}


class LeasedWork(Protocol):
    """What a log line says about leased work."""

    @property
    def id(self) -> int:
        """The row of the table `work`."""

    @property
    def job_id(self) -> uuid.UUID:
        """The job that the work is part of."""

    @property
    def queue(self) -> str:
        """The queue of the job."""

    @property
    def tenant(self) -> str:
        """The tenant of the job."""

    @property
    def pack_key(self) -> str | None:
        """The digest of the release; None for work that needs no release."""


def lease_fields(lease: LeasedWork) -> dict[str, object]:
    """Return the fields of a line about leased work, for `extra`."""
    fields = {**job_fields(lease.job_id), "shard": lease.id, "queue": lease.queue, "tenant": lease.tenant}
    return {**fields, "release": lease.pack_key[:12]} if lease.pack_key else fields


def configure(settings: DatabaseSettings) -> "Handler":
    """Log to standard error as the settings say: every logger, warnings, and exceptions that end a thread."""
    handler = Handler(settings.log_format == "json", find_secrets(settings))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    logging.captureWarnings(True)
    threading.excepthook, sys.excepthook = _log_thread_end, _log_process_end
    return handler


def logs_json() -> bool:
    """Return whether this process logs JSON."""
    return any(isinstance(handler, Handler) and handler.as_json for handler in logging.getLogger().handlers)


def set_process_id(process: uuid.UUID) -> None:
    """Add the process's id to every later line."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Handler):
            handler.process = str(process)


def mask(text: str) -> str:
    """Return a text with the secrets masked that lines of this process never contain."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Handler):
            text = handler.mask(text)
    return text


def find_secrets(settings: DatabaseSettings) -> list[str]:
    """Return what no line may contain: secret values, and the passwords in those that are URLs. The longest first."""
    found = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            secret = value.get_secret_value()
            found.add(secret)
            if "://" in secret:
                found |= find_passwords(secret)
    return sorted((secret for secret in found if len(secret) >= MIN_SECRET_LENGTH), key=len, reverse=True)


def find_passwords(url: str) -> set[str]:
    """Return the passwords of a URL, as they are written there and as libraries may write them."""
    parts = urlsplit(url)
    raw = [parts.password or "", *(value for name, value in parse_qsl(parts.query) if "password" in name)]
    plain = {unquote(one) for one in raw}
    return {*raw, *plain, *(quote(one, safe="") for one in plain), *(quote(one, safe=" +") for one in plain)} - {""}


class Handler(logging.StreamHandler[Any]):
    """Writes lines to standard error, with secrets masked."""

    def __init__(self, as_json: bool, hidden: Iterable[str]) -> None:
        super().__init__(sys.stderr)
        self.as_json, self.hidden = as_json, list(hidden)
        self.process: str | None = None
        self.plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s%(about)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON, or a line of text followed by the lines of an exception."""
        if not self.as_json:
            job = str(getattr(record, "job", ""))
            record.about = f" (job {job})" if job not in record.getMessage() else ""
            return self.mask(self.plain.format(record))
        seconds, fraction = divmod(record.created, 1)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(fraction * 1000):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.mask(record.getMessage()),
        }
        known = {**vars(record), "process": self.process}  # logging's own `process` is the pid
        line |= {name: known[name] for name in FIELDS if known.get(name) is not None}
        if record.exc_info:
            line["exception"] = self.mask(self.plain.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)

    def mask(self, text: str) -> str:
        """Return a text with every secret masked."""
        for secret in self.hidden:
            text = text.replace(secret, HIDDEN)
        return text


def _log_process_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("darkroom").critical("this process ends with an error: %s", error, exc_info=(kind, error, trace))


def _log_thread_end(arguments: threading.ExceptHookArgs) -> None:
    name = arguments.thread.name if arguments.thread else "?"
    error = arguments.exc_value or arguments.exc_type()
    log = logging.getLogger("darkroom.threads")
    log.critical("thread %s has ended: %s", name, error, exc_info=(type(error), error, arguments.exc_traceback))
