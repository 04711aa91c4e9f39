"""Every function that a tenant's login may call, with arguments that no program should send."""

import itertools
import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.stack import Stack
from tests.support.tenants import Tenant, end_open_jobs

CALLABLE = """
    SELECT proname AS name, proargtypes::regtype[]::text[] AS types FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace AND prokind = 'f' AND prorettype <> 'trigger'::regtype
        AND has_function_privilege(oid, 'EXECUTE') ORDER BY 1
"""
MOST_CALLS = 300  # of one function
LONG = "x" * 100_000
DEEP = "[" * 5_000 + "]" * 5_000
DOCUMENTS = [
    "null", "0", '"x"', "[]", "{}", "[[]]", "[{}]", '[{"model": "m", "request": {}}, 1]', DEEP, f'{{"a": {DEEP}}}',
    json.dumps(LONG), json.dumps({LONG: LONG}), "9" * 100_000, "1e-100000", '{"model": null, "request": null}',
    '{"model": "m", "request": {}, "queue": {}}', '{"model": {}, "request": {}, "priority": 1e1000}',
    '{"model": "m", "request": {}, "run_after": "infinity"}', '{"model": "m", "request": {}, "deadline": "-infinity"}',
    '{"model": "m", "request": {}, "tags": {"a": 1}}', '{"priority": 1e100}', '{"priority": "infinity"}',
    '{"priority": 0.5}', '{"priority": null}', '{"paused": null}', '{"paused": "yes"}', '{"deadline": "infinity"}',
    '{"deadline": "epoch"}', '{"deadline": ["now"]}', '{"deadline": "allballs"}', '{"tags": null}', '{"tags": [1]}',
    json.dumps({"tags": ["t"] * 10_000}), json.dumps({"tags": [LONG]}), json.dumps({"colour": 1, LONG: 2}),
    json.dumps([{"model": "m", "request": {}, "idempotency_key": "k"}] * 2_000),
    json.dumps([{f"field{i}": i for i in range(20_000)}]),
]  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "jsonb": [None, *DOCUMENTS],
    "text": [None, "", "x" * 300, "\x01\u202e\n", "'; DROP TABLE jobs; --", "run_after"],
    "text[]": [None, [], [None], [""], [LONG] * 16, ["a"] * 10_000, ["a\nb"], [["a"], ["b"]]],
    "integer": [None, 0, -1, 2**31 - 1],
    "bigint": [None, 0, -1, 2**63 - 1],
    "boolean": [None, True],
    "interval": [None, "infinity", "-1 year"],
}


@pytest.fixture
def identifiers(stack: Stack, attacker: Tenant, neighbour: Tenant) -> Iterator[list[uuid.UUID]]:
    """The ids of the attacker's own job, of another tenant's, and of none."""
    yield [*(tenant.submit(run_after="2100-01-01") for tenant in (attacker, neighbour)), uuid.uuid4()]
    end_open_jobs(stack)


def call(connection: "psycopg.Connection[Any]", name: str, types: list[str], arguments: tuple[Any, ...]) -> str | None:
    """Call a function, and read its answer. Returns what is said instead."""
    marks = ", ".join(f"%s::{type_}" for type_ in types)
    try:
        connection.execute(f"SELECT * FROM {name}({marks})", arguments).fetchall()
    except psycopg.Error as error:
        refusal = error
    else:
        return None
    assert refusal.sqlstate is not None, f"{name}: the session has ended: {refusal}"
    assert refusal.sqlstate[:2] not in ("XX", "57", "58"), f"{name}: {refusal}"
    said = f"{refusal.diag.message_primary} {refusal.diag.message_detail or ''} {refusal.diag.message_hint or ''}"
    assert len(said) < 700, f"{name}: {said[:1000]}"
    return said


def test_each_answers_whatever_it_is_given(attacker: Tenant, neighbour: Tenant, identifiers: list[uuid.UUID]) -> None:
    """It answers or refuses in a few words, and no word is about another tenant. Nothing of that tenant changes."""
    theirs = identifiers[1]
    values = {
        **VALUES,
        "uuid": [None, *identifiers],
        "uuid[]": [None, [], [None], identifiers[:1], identifiers * 10_000],
    }
    with attacker.connect() as connection:
        functions = connection.execute(CALLABLE).fetchall()
        assert {"cancel_job", "change_job", "retry_job", "submit_job", "submit_jobs"} <= {row.name for row in functions}
        for name, types in functions:
            for arguments in itertools.islice(itertools.product(*(values[type_] for type_ in types)), MOST_CALLS):
                said = call(connection, name, types, arguments)
                assert said is None or "neighbour" not in said, f"{name}: {said}"
    job = neighbour.job(theirs)
    assert (job.state, job.revision) == ("submitted", 1)
    with neighbour.connect() as connection:
        assert connection.execute("SELECT priority, paused, tags FROM jobs WHERE id = %s", (theirs,)).fetchone() == (
            0, False, [],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        (
            "{}",
            "changes: {} is not allowed; permitted: a JSON object with one or more of deadline, paused, priority, tags",
        ),
        ('{"colour": 1}', "changes: colour is not a known field; permitted: deadline, paused, priority, tags"),
        ('{"a b": 1}', 'changes: "a b" is not a known field; permitted: deadline, paused, priority, tags'),
        ('{"priority": 1e400}', "priority: 1000000"),
        ('{"paused": 1}', "paused: 1 is not allowed; permitted: true or false"),
        (
            '{"deadline": "infinity"}',
            'deadline: "infinity" is not allowed; permitted: a time from 2000-01-01 to 9998-12-31',
        ),
    ],
)
def test_a_change_that_is_refused_says_what_is_permitted(
    attacker: Tenant, identifiers: list[uuid.UUID], changes: str, answer: str
) -> None:
    with attacker.connect() as connection, pytest.raises(psycopg.errors.InvalidParameterValue) as refusal:
        connection.execute("SELECT change_job(%s, %s)", (identifiers[0], changes))
    assert str(refusal.value.diag.message_primary).startswith(answer)
    assert len(str(refusal.value.diag.message_primary)) < 250
