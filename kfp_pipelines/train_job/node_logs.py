"""Keeps the output of a TrainJob's nodes in S3: their pods, with the logs in them, are gone soon after a failure.

Each rank copies the end of its output to an object of its own, from time to time and when it ends. So the log of a node
that was killed lacks its last INTERVAL_S seconds at most.
"""

import os
import sys
import threading
from types import TracebackType
from typing import Self

from services.storage.object_store import ObjectStore
from services.storage.transient import is_transient

LOGS = "logs"
KEPT = 2**20  # bytes of a rank's output
SHOWN_LINES = 100  # of each rank, in the log of the stage
INTERVAL_S = 30.0
END_S = 5.0  # for which the end waits for processes of this rank that still print
CONTENT_TYPE = "text/plain; charset=utf-8"


class KeptOutput:
    """Copies what this process and its children print to an object, while it is entered."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self._kept, self._is_changed = bytearray(), False
        self._lock, self._ended = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        _flush()
        self._printed = {number: os.dup(number) for number in (1, 2)}
        self._threads = [threading.Thread(target=self._upload_often, daemon=True)]
        for number, printed in self._printed.items():
            reading, writing = os.pipe()
            os.dup2(writing, number)
            os.close(writing)
            self._threads.append(threading.Thread(target=self._copy, args=(reading, printed), daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _flush()
        for number, printed in self._printed.items():
            os.dup2(printed, number)  # the pipe has no writer in this process any more
        self._ended.set()
        for thread in self._threads:
            thread.join(END_S)
        self._upload()

    def _copy(self, reading: int, printed: int) -> None:
        while part := os.read(reading, 65536):
            os.write(printed, part)
            with self._lock:
                self._kept += part
                del self._kept[:-KEPT]
                self._is_changed = True

    def _upload_often(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self._upload()

    def _upload(self) -> None:
        with self._lock:
            content, is_changed, self._is_changed = bytes(self._kept), self._is_changed, False
        if is_changed:
            try:
                self._store.put(self._key, content, content_type=CONTENT_TYPE)
            except Exception as error:
                if not is_transient(error):
                    raise
                with self._lock:
                    self._is_changed = True  # the next round tries again; a log is no reason to end a training


def log_key(prefix: str, rank: int, host: str) -> str:
    """Return the key of the log of a rank. host: of its pod; one that takes the place of another has another name."""
    return f"{prefix}/{LOGS}/rank-{rank:03d}-{host}.log"


def last_lines(store: ObjectStore, prefix: str) -> str:
    """Return the end of what each rank has printed, and where the rest is."""
    parts = []
    for key in store.keys(f"{prefix}/{LOGS}/"):
        lines = store.get(key).decode(errors="replace").splitlines()[-SHOWN_LINES:]
        parts += [f"--- the end of {store.uri(key)}", *lines]
    return "\n".join(parts)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
