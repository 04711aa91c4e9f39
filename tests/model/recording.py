"""Records every change of jobs, work and images in the transaction that makes it, in the order of their commits."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

import psycopg

# A deferred trigger runs at the end of its transaction. So what is recorded first was committed first, wherever two
# transactions have touched the same row. Facts are those of the transaction's own time: how long the owner of work was
# silent (negative: it has been heard of since), whether its lease was over, and whether the job's deadline had passed.
INSTALL = """
CREATE TABLE recorded (
    position bigint GENERATED ALWAYS AS IDENTITY, transaction text, login text, process text, kind text,
    job uuid, tenant text, old jsonb, new jsonb, silent_s float8, is_over boolean, is_overdue boolean);

CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    before jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - 'request' - 'plan'
        || jsonb_build_object('is_planned', to_jsonb(OLD) -> 'plan' <> 'null') END;
    after  jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - 'request' - 'plan'
        || jsonb_build_object('is_planned', to_jsonb(NEW) -> 'plan' <> 'null') END;
    job_id uuid := coalesce(after, before) ->> CASE TG_TABLE_NAME WHEN 'jobs' THEN 'id' ELSE 'job_id' END;
BEGIN
    INSERT INTO recorded (transaction, login, process, kind, job, tenant, old, new, silent_s, is_over, is_overdue)
    VALUES (
        pg_current_xact_id()::text, session_user, current_setting('application_name'), TG_TABLE_NAME,
        job_id, (SELECT tenant FROM jobs WHERE id = job_id), before, after,
        (SELECT extract(epoch FROM now() - heartbeat_at) FROM workers WHERE id = (before ->> 'owner')::uuid),
        (before ->> 'lease_until')::timestamptz < now(),
        coalesce((SELECT deadline < now() FROM jobs WHERE id = job_id), false));
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION record() FROM PUBLIC;
"""
TRIGGER = """
CREATE CONSTRAINT TRIGGER record AFTER INSERT OR UPDATE OR DELETE ON {table} DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION record();
"""
TABLES = ("jobs", "work", "outputs", "cancel_requests", "job_stages", "stage_outputs")


class Change(NamedTuple):
    """A recorded change of a row. kind: its table."""

    transaction: str
    login: str
    process: str
    kind: str
    job: str
    tenant: str | None
    old: dict[str, Any] | None
    new: dict[str, Any] | None
    silent_s: float | None
    is_over: bool | None
    is_overdue: bool


def install(owner: psycopg.Connection[Any]) -> None:
    """Begin to record. owner: a connection of the tables' owner."""
    owner.execute(INSTALL)
    for table in TABLES:
        owner.execute(TRIGGER.format(table=table).encode())


def remove(owner: psycopg.Connection[Any]) -> None:
    """Record no more, and forget what was recorded."""
    owner.execute("DROP FUNCTION IF EXISTS record() CASCADE")
    owner.execute("DROP TABLE IF EXISTS recorded")


def pids(owner: psycopg.Connection[Any]) -> dict[str, int]:
    """Return the process id of each process that has registered."""
    return {str(process): pid for process, pid in owner.execute("SELECT id, pid FROM workers").fetchall()}


def read(owner: psycopg.Connection[Any]) -> Iterator[list[Change]]:
    """Yield the recorded changes of one job in one transaction after the other, in the order of their commits."""
    columns = ", ".join(Change._fields)
    rows = owner.execute(f"SELECT {columns} FROM recorded ORDER BY job, position".encode()).fetchall()
    for _, of_job in groupby(map(Change._make, rows), key=lambda change: change.job):
        transactions: dict[str, list[Change]] = {}
        for change in of_job:
            transactions.setdefault(change.transaction, []).append(change)
        yield from transactions.values()
