"""Health checks as a kubelet asks for them. A restart brings neither Postgres nor S3 back, so liveness asks neither."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from services.database.connections import brief, server_version

BEAT_S, SILENT_S = 1.0, 60.0


class ConsoleHealth:
    """Each check returns the reasons against it: an empty list means yes."""

    def __init__(self, database: Engine) -> None:
        self._database = database
        self._beaten_at: float | None = None

    @asynccontextmanager
    async def watch(self, _: FastAPI) -> AsyncIterator[None]:
        """Note each second that the event loop runs, for the life of an application."""
        task = asyncio.get_running_loop().create_task(self._beat())
        try:
            yield
        finally:
            task.cancel()

    async def _beat(self) -> None:
        while True:
            self._beaten_at = time.monotonic()
            await asyncio.sleep(BEAT_S)

    def live(self) -> list[str]:
        """Return why the process must be restarted: its event loop hangs."""
        silent_s = 0.0 if self._beaten_at is None else time.monotonic() - self._beaten_at
        return [f"the event loop has not run for {silent_s:.0f} s"] if silent_s > SILENT_S else []

    def started(self) -> list[str]:
        """Return why the process has not started."""
        return ["the event loop does not run yet"] if self._beaten_at is None else []

    def ready(self) -> list[str]:
        """Return why no request should come here: Postgres does not answer. Most pages work without S3."""
        reasons = self.live()
        try:
            with self._database.connect() as connection:
                server_version(connection)
        except SQLAlchemyError as error:
            reasons.append(f"Postgres does not answer ({brief(error)})")
        return reasons
