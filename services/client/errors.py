"""The errors of the client, and its retries while Postgres or S3 is unavailable."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from services.database.messages import describe_database_error
from services.storage.messages import describe_store_error
from services.storage.transient import is_transient
from training.errors import DarkroomError

Answer = TypeVar("Answer")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0


class ClientError(DarkroomError):
    """The service refuses what was asked, or does not answer; the message says what to do."""


class JobNotFound(ClientError):
    """The tenant has no job of this id."""


def check_open(closed: threading.Event) -> None:
    """Raise ClientError if the client is closed."""
    if closed.is_set():
        raise ClientError("the client is closed; use it within its `with` block, or make another one")


def persist(call: Callable[[], Answer], patience_s: float, closed: threading.Event) -> Answer:
    """Return what `call` returns. It is repeated while Postgres or S3 is away, so it must be safe to repeat.

    Raises ClientError if the service refuses it, is still away after `patience_s` seconds, or the client is `closed`.
    """
    deadline, pause = time.monotonic() + patience_s, FIRST_PAUSE_S
    while True:
        check_open(closed)
        try:
            return call()
        except Exception as error:
            message = describe_database_error(error) or describe_store_error(error)
            if message is None:
                raise
            if not is_transient(error) or time.monotonic() + pause > deadline:
                raise ClientError(message) from error
        closed.wait(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
