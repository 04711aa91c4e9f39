"""Tenants as the service meets them: each with a login of its own, a plain driver, and jobs beside other tenants'."""

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import text

from services.database import logins
from services.job_queue import tenants
from services.job_queue.states import TERMINAL
from tests.support.stack import Stack

PASSWORD = "a-long-password"
# The limits are as at the default settings, but a lost process is noticed sooner.
QUICK = {"DARKROOM_STALE_S": "4", "DARKROOM_HEARTBEAT_S": "0.5", "DARKROOM_POLL_S": "0.5", "DARKROOM_DRAIN_S": "2"}
SMALL = {"items": [{"class_label": 1}], "images_per_item": 2, "steps": 2, "guidance_scale": 1.0}


@dataclass(frozen=True)
class Tenant:
    """A tenant and how its programs reach the database."""

    stack: Stack
    name: str

    @property
    def login(self) -> str:
        return f"tenant_{self.name}"

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """Open a connection with the tenant's login that commits each statement, unless `options` say otherwise."""
        url = self.stack.engine("migrator").url.set(drivername="postgresql", username=self.login, password=PASSWORD)
        address = url.render_as_string(hide_password=False)
        return psycopg.connect(address, **{"autocommit": True, "row_factory": namedtuple_row, **options})

    def submit(
        self, request: dict[str, Any] | None = None, model: str = "tiny@production", **columns: Any
    ) -> uuid.UUID:
        """Insert a job. Returns its id. columns: further columns of the row."""
        values = {"model": model, "request": json.dumps(SMALL if request is None else request), **columns}
        names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
        with self.connect() as connection:
            row = connection.execute(f"INSERT INTO jobs ({names}) VALUES ({marks}) RETURNING id", list(values.values()))
            return row.fetchall()[0].id

    def job(self, job_id: uuid.UUID) -> Any:
        """Return the columns of a job that a test looks at; a client's Python may be unable to hold the others."""
        with self.connect() as connection:
            query = "SELECT state, reason, total, succeeded, failed, manifest_key, revision FROM jobs WHERE id = %s"
            return connection.execute(query, (job_id,)).fetchone()

    def outputs(self, job_id: uuid.UUID) -> list[Any]:
        """Return the settled images of a job, by index."""
        with self.connect() as connection:
            return connection.execute("SELECT * FROM outputs WHERE job_id = %s ORDER BY index", (job_id,)).fetchall()

    def wait(self, job_id: uuid.UUID, *states: str, timeout: float = 180) -> Any:
        """Return the job once it is in one of `states` (by default: ended)."""
        deadline = time.monotonic() + timeout
        while (row := self.job(job_id)).state not in (states or TERMINAL):
            if time.monotonic() > deadline:
                progress = f"{self.name}'s job is still {row.state}, {row.succeeded}/{row.total}"
                raise AssertionError(f"{progress}\n{describe_work(self.stack)}")
            time.sleep(0.05)
        return row

    def assert_served(self, timeout: float = 180, **columns: Any) -> float:
        """Submit a small job and check that it succeeds within `timeout` seconds. Returns how many it took."""
        began = time.monotonic()
        row = self.wait(self.submit(**columns), timeout=timeout)
        assert (row.state, row.succeeded) == ("succeeded", SMALL["images_per_item"]), row
        return time.monotonic() - began


def make_tenant(stack: Stack, name: str, **limits: Any) -> Tenant:
    """Add a tenant with its login, as `darkroom tenants add` does. limits: columns of its row."""
    with stack.engine("migrator").begin() as connection:
        logins.ensure_login(connection, f"tenant_{name}", group="submitter", password=PASSWORD)
        tenants.ensure_tenant(connection, name, login=f"tenant_{name}")
        for column, value in limits.items():
            statement = text(f"UPDATE tenants SET {column} = :value WHERE name = :name")
            connection.execute(statement, {"value": value, "name": name})
    return Tenant(stack, name)


def administrator(stack: Stack) -> psycopg.Connection[Any]:
    """Open a connection of the tables' owner that commits each statement."""
    url = stack.engine("migrator").url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)


def describe_work(stack: Stack) -> str:
    """Return what the queue holds and what the processes said last, for the message of a test that waited in vain."""
    with administrator(stack) as owner:
        columns = "job_id, kind, state, tenant, attempts, suspect, owner, lease_until - now() AS lease, error"
        rows = owner.execute(f"SELECT {columns} FROM work WHERE state <> 'done' LIMIT 20").fetchall()
    newest = sorted(stack.root.glob("logs/*"), key=lambda log: log.stat().st_mtime)[-3:]
    tails = [f"{log.name}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]) for log in newest]
    return "\n".join([*map(str, rows), *tails])


def end_open_jobs(stack: Stack) -> None:
    """Delete every open job, so that what one test leaves behind does not reach the next one.

    Each statement commits for itself: together, they could be in a deadlock with processes that work on the jobs.
    """
    with administrator(stack) as owner:
        owner.execute("DELETE FROM cancel_requests")
        owner.execute("DELETE FROM work")
        owner.execute("DELETE FROM outputs WHERE job_id IN (SELECT id FROM jobs WHERE finished_at IS NULL)")
        owner.execute("DELETE FROM jobs WHERE finished_at IS NULL")
