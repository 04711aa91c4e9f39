"""Attempts at planning and finalizing: claim some, work on each, and count an attempt of the one that failed."""

import logging
import uuid
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Engine as Database

from services.database.connections import brief
from services.database.faults import is_fault_of_a_row
from services.dispatcher import finalizer, planner
from services.dispatcher.strikes import Strikes, storable
from services.job_queue import claims, claims_by_id, jobs, leases
from services.job_queue.leases import Lease, LeaseLost
from services.job_queue.states import WorkKind
from services.observability import logs, metrics
from services.process.watchdog import Watchdog
from services.storage.object_store import ObjectStore
from services.storage.transient import is_transient

log = logging.getLogger("darkroom.dispatcher")


class Attempts:
    """Plans and finalizes what one dispatcher has claimed."""

    def __init__(
        self, database: Database, store: ObjectStore, watchdog: Watchdog, set_aside: Callable[[int, str], None]
    ) -> None:
        """set_aside: ends the work of an id for a reason, and fails its job."""
        self.database, self.store, self.watchdog = database, store, watchdog
        self._claiming = Strikes[int]("claiming", set_aside)
        self._ending = Strikes[int]("ending an attempt", set_aside)
        self._held: list[Lease] = []

    def held_tokens(self) -> list[int]:
        """Return the tokens of the leases that are held now."""
        return [lease.token for lease in self._held]

    def claim_and_work(self, process: uuid.UUID) -> bool:
        """Plan and finalize what can be claimed now. Returns whether that was anything."""
        claimed = self._claim(process)
        self._held = list(claimed)
        try:
            for lease in claimed:
                self.watchdog.tick(f"{lease.kind} of job {lease.job_id}")
                self._work_on(lease)
        finally:
            self._held = []  # After an error the heartbeat returns the remaining leases to the queue.
        return bool(claimed)

    def _claim(self, process: uuid.UUID) -> list[Lease]:
        try:
            with self.database.begin() as connection:
                return claims.claim_planning(connection, process)
        except Exception as error:
            if not is_fault_of_a_row(error):
                raise
            log.warning("a claim failed (%s); work is claimed piece by piece", brief(error))
        with self.database.begin() as connection:
            ready = claims_by_id.find_ready_planning(connection)
        claimed: list[Lease] = []

        def claim(work_ids: Sequence[int]) -> None:
            with self.database.begin() as connection:
                found = claims_by_id.claim_work(connection, process, work_ids[0])
            claimed.extend(found)

        for work_id in ready:
            self._claiming.handle([work_id], claim)
        return claimed

    def _work_on(self, lease: Lease) -> None:
        """Plan or finalize. An error counts as an attempt of this work alone."""
        try:
            if lease.kind == WorkKind.PLAN:
                reason = planner.plan_job(self.database, self.store, lease, self.watchdog.tick)
                outcome = f"rejected: {reason}" if reason else "planned"
                log.info("job %s %s", lease.job_id, outcome, extra=logs.lease_fields(lease))
                metrics.JOBS_PLANNED.labels("rejected" if reason else "planned").inc()
            else:
                state = finalizer.finalize(self.database, self.store, lease, self.watchdog.tick)
                log.info("job %s %s", lease.job_id, state, extra=logs.lease_fields(lease))
                metrics.JOBS_FINISHED.labels(state).inc()
        except LeaseLost:
            log.warning("lease lost: work %d", lease.id, extra=logs.lease_fields(lease))
        except Exception as error:
            message = f"work {lease.id} ({lease.kind} of job {lease.job_id}) failed: {brief(error)}"
            log.warning("%s", message, extra=logs.lease_fields(lease))
            self._ending.handle([lease.id], partial(self._end_attempt, lease, error))

    def _end_attempt(self, lease: Lease, error: Exception, _: Sequence[int]) -> None:
        cause = storable(brief(error))
        message = f"{type(error).__name__}: {cause}"
        try:
            with self.database.begin() as connection:
                if is_transient(error):
                    leases.postpone(connection, lease, message)
                elif not leases.fail_attempt(connection, lease, message):
                    jobs.fail_job(connection, lease.job_id, f"{lease.kind} failed: {cause}")
        except LeaseLost:
            log.warning("lease lost: work %d", lease.id, extra=logs.lease_fields(lease))
