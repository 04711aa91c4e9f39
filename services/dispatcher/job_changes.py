"""Applies changes of jobs that clients have requested, a limited number in each round."""

import uuid
from collections.abc import Sequence

from sqlalchemy import Engine as Database

from services.database.connections import autocommit
from services.dispatcher.strikes import Strikes
from services.job_queue import changing
from services.process.watchdog import Watchdog


class JobChanges:
    """The changes of jobs by one dispatcher."""

    def __init__(self, database: Database, watchdog: Watchdog) -> None:
        self._database, self._watchdog = autocommit(database), watchdog
        self._strikes = Strikes[uuid.UUID]("changing a job", self._drop)
        self._has_more = False

    def apply(self) -> bool:
        """Apply the requests that are due. Returns whether there may be more to do at once."""
        with self._database.connect() as connection:
            due = changing.find_change_requests(connection)
        self._has_more = len(due) == changing.MAX_JOBS
        self._strikes.handle(due, self._apply)
        return self._has_more

    def _apply(self, job_ids: Sequence[uuid.UUID]) -> None:
        with self._database.connect() as connection:
            for job_id in job_ids:
                if changing.apply_change(connection, job_id) == changing.Applied.MORE:
                    self._has_more = True
                self._watchdog.tick()

    def _drop(self, job_id: uuid.UUID, reason: str) -> None:
        with self._database.connect() as connection:
            changing.drop_change_request(connection, job_id)
