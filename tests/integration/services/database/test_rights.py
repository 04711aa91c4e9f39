"""The logins of dispatchers and workers write the columns that these processes write, and may do nothing else."""

import psycopg
import pytest

from services.local_stack.logins import Role
from tests.support.stack import Stack
from tests.support.tenants import administrator

LEASE = "state token owner lease_until isolated run_after error attempts losses suspect stop cost"
IDENTITY = (
    "job_id kind start stop queue tenant pack_key priority rank cost suspect losses error "
    "line_start byte_start byte_stop stage"
)
OUTPUT = "job_id index item seed key sha256 bytes profile error revision"
STAGE = "job_id stage model release_id digest cost keep is_last"
PROCESS = {"INSERT": "id kind host pid queues", "UPDATE": "heartbeat_at profile stopped_at"}
WRITTEN: dict[Role, dict[str, dict[str, str]]] = {
    "worker": {
        "work": {"INSERT": IDENTITY, "UPDATE": f"{LEASE} rank deferred clock stage claimed_stage pack_key"},
        "jobs": {"UPDATE": "state succeeded failed started_at"},
        "outputs": {"INSERT": f"{OUTPUT} evaluations gpu_seconds"},
        "stage_outputs": {"INSERT": "job_id index stage key sha256 bytes profile evaluations gpu_seconds"},
        "job_stages": {"UPDATE": "made"},
        "workers": PROCESS,
        "tenants": {"UPDATE": "virtual_time"},  # by workers of 0.1.0
    },
    "dispatcher": {
        "work": {"INSERT": f"{IDENTITY} deferred", "UPDATE": f"{LEASE} priority rank deferred"},
        "jobs": {
            "UPDATE": "state reason release_id plan total succeeded failed manifest_key started_at finished_at "
            "cancel_requested_at planned_to upkeep_failures priority deadline paused tags estimate"
        },
        "outputs": {"INSERT": OUTPUT},
        "job_stages": {"INSERT": STAGE, "UPDATE": "made", "DELETE": ""},
        "workers": PROCESS,
        "turns": {"INSERT": "tenant queue priority virtual_time clock", "UPDATE": "virtual_time deferred clock"},
        "tenants": {"UPDATE": "virtual_time"},  # by dispatchers of 0.1.0
        "cancel_requests": {"UPDATE": "requested_at", "DELETE": ""},  # to lock a row
        "change_requests": {"UPDATE": "due_at", "DELETE": ""},
        "webhook_events": {"UPDATE": "state attempts due_at error delivered_at", "DELETE": ""},
        "service_locks": {"UPDATE": "name"},  # to lock a row
        "made_schemas": {"INSERT": "release_id code schema", "UPDATE": "code schema"},
    },
}


@pytest.mark.parametrize("role", WRITTEN)
def test_a_login_writes_its_columns_and_no_others(stack: Stack, role: Role) -> None:
    """Postgres checks the right to a column before it looks for rows, so no statement changes anything."""
    with administrator(stack) as owner:
        columns = owner.execute("""
            SELECT relname AS table, attname AS column FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') AND attnum > 0
                AND NOT attisdropped
        """).fetchall()
    url = stack.settings(role).database_url.get_secret_value().replace("+psycopg", "")
    found: dict[str, dict[str, set[str]]] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        for table in {row.table for row in columns}:
            if is_permitted(connection, f"DELETE FROM {table} WHERE false"):
                found.setdefault(table, {})["DELETE"] = set()
        for table, column in columns:
            for verb, statement in (
                ("INSERT", f'INSERT INTO {table} ("{column}") SELECT "{column}" FROM {table} WHERE false'),
                ("UPDATE", f'UPDATE {table} SET "{column}" = NULL WHERE false'),
            ):
                if is_permitted(connection, statement):
                    found.setdefault(table, {}).setdefault(verb, set()).add(column)
    assert found == {
        table: {verb: set(names.split()) for verb, names in verbs.items()} for table, verbs in WRITTEN[role].items()
    }


def is_permitted(connection: psycopg.Connection, statement: str) -> bool:
    """Return whether the login may do this, apart from what else may be wrong with it."""
    try:
        connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.Error as error:  # a view that cannot be updated, a column that is computed or generated
        return error.sqlstate not in ("0A000", "428C9", "55000")
    return True
