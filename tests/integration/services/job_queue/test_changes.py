"""A tenant changes a job after submission: its priority, deadline and tags; it pauses and resumes it."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, text

from services.job_queue import changing, stopping
from services.job_queue.changing import Applied
from tests.support.job_queue import (
    REQUEST,
    call_function,
    claim,
    empty_queue,
    fetch_value,
    job_state,
    settle_shard,
    stop_jobs,
    submit_planned,
)
from tests.support.stack import Stack

LATER = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture(autouse=True)
def only_own_jobs(engine: Engine) -> Iterator[None]:
    """Claims see no job of another test."""
    empty_queue(engine)
    yield
    empty_queue(engine)


def ask(stack: Stack, job_id: uuid.UUID, **changes: Any) -> str:
    with stack.engine("submitter").begin() as connection:
        query = text("SELECT change_job(:id, CAST(:changes AS jsonb))")
        return str(connection.scalar(query, {"id": job_id, "changes": json.dumps(changes, default=str)}))


def apply(engine: Engine, job_id: uuid.UUID) -> Applied:
    """Apply a request as a dispatcher does, although it may not be due."""
    with engine.begin() as connection:
        return changing.apply_change(connection, job_id)


def change(stack: Stack, engine: Engine, job_id: uuid.UUID, **changes: Any) -> Applied:
    ask(stack, job_id, **changes)
    return apply(engine, job_id)


def turns(engine: Engine) -> list[tuple[int, float, float]]:
    """The turns of the default tenant, by priority: (priority, virtual time, deferred)."""
    with engine.connect() as connection:
        query = "SELECT priority, virtual_time, deferred FROM turns WHERE tenant = 'default' ORDER BY priority, queue"
        return [(row.priority, row.virtual_time, row.deferred) for row in connection.execute(text(query))]


def claimed_jobs(engine: Engine, worker_id: uuid.UUID) -> list[uuid.UUID]:
    """Claim every shard, one by one. Returns their jobs in the order of the claims."""
    found = []
    while shards := claim(engine, worker_id, count=1):
        found.append(shards[0].job_id)
    return found


def test_a_higher_priority_passes_the_tenants_other_jobs(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    first, second = (submit_planned(stack, engine, worker_id) for _ in range(2))
    assert change(stack, engine, second, priority=7) == Applied.DONE
    assert stack.job(second).priority == 7
    assert claimed_jobs(engine, worker_id) == [second] * 3 + [first] * 3


def test_a_lower_priority_lets_the_tenants_other_jobs_pass(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    first, second = (submit_planned(stack, engine, worker_id) for _ in range(2))
    change(stack, engine, first, priority=-1)
    third = submit_planned(stack, engine, worker_id)
    order = claimed_jobs(engine, worker_id)
    assert (sorted(order[:6]), order[6:]) == (sorted([second] * 3 + [third] * 3), [first] * 3)


def test_unplanned_jobs_are_planned_by_their_new_priority(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    first, second = stack.submit(REQUEST), stack.submit(REQUEST)
    change(stack, engine, second, priority=1)
    with engine.connect() as connection:
        query = text("SELECT job_id FROM work WHERE kind = 'plan' AND job_id IN (:first, :second) ORDER BY rank")
        planned = connection.scalars(query, {"first": first, "second": second}).all()
    assert planned == [second, first]


def test_a_large_job_moves_in_parts(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changing, "MAX_SHARDS", 2)
    first, second = (submit_planned(stack, engine, worker_id) for _ in range(2))
    assert change(stack, engine, second, priority=3) == Applied.MORE
    assert apply(engine, second) == Applied.DONE
    assert claimed_jobs(engine, worker_id) == [second] * 3 + [first] * 3


def test_nothing_of_a_paused_job_is_claimed_until_it_resumes(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    job = submit_planned(stack, engine, worker_id)
    (held,) = claim(engine, worker_id, count=1)
    assert change(stack, engine, job, paused=True) == Applied.WAITING
    assert claim(engine, worker_id) == []
    settle_shard(engine, held)
    assert apply(engine, job) == Applied.DONE
    with stack.engine("submitter").connect() as connection:
        query = text("SELECT waits_because FROM job_progress WHERE id = :id")
        assert connection.scalar(query, {"id": job}) == "it is paused"
    assert change(stack, engine, job, paused=False) == Applied.DONE
    for shard in claim(engine, worker_id):
        settle_shard(engine, shard)
    assert stack.job(job).state == "finalizing"
    assert stack.job(job).succeeded == 40


def test_work_that_returns_to_the_queue_of_a_paused_job_stays_there(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    job = submit_planned(stack, engine, worker_id)
    (held,) = claim(engine, worker_id, count=1)
    change(stack, engine, job, paused=True)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE work SET state = 'ready', owner = NULL, lease_until = NULL WHERE id = :id"), {"id": held.id}
        )
    assert apply(engine, job) == Applied.DONE
    assert claim(engine, worker_id) == []


def test_a_job_that_is_paused_before_planning_is_planned_later(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    now, later = stack.submit(REQUEST), stack.submit(REQUEST, run_after=LATER)
    for job in (now, later):
        change(stack, engine, job, paused=True)
    assert claim(engine, worker_id, "plan") == []
    for job in (now, later):
        change(stack, engine, job, paused=False)
    assert [lease.job_id for lease in claim(engine, worker_id, "plan")] == [now]
    with engine.connect() as connection:
        query = text("SELECT run_after FROM work WHERE job_id = :id")
        assert connection.scalar(query, {"id": later}) == LATER


def test_a_pause_saves_up_no_turns(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    before = turns(engine)
    job = submit_planned(stack, engine, worker_id)
    planned = turns(engine)
    change(stack, engine, job, paused=True)
    assert [virtual_time for _, virtual_time, _ in turns(engine)] == [time for _, time, _ in before] or not before
    other = submit_planned(stack, engine, worker_id)
    change(stack, engine, job, paused=False)
    assert claimed_jobs(engine, worker_id) == [other] * 3 + [job] * 3
    assert max(time for _, time, _ in turns(engine)) > max(time for _, time, _ in planned)


def test_a_paused_job_can_be_cancelled_and_gives_no_turn_back_twice(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    submit_planned(stack, engine, worker_id)
    job = submit_planned(stack, engine, worker_id)
    change(stack, engine, job, paused=True)
    before = turns(engine)
    call_function(stack, "cancel_job", job)
    with engine.begin() as connection:
        stop_jobs(connection)
        assert job_state(connection, job) == "finalizing"
    assert turns(engine) == before


def test_a_deadline_ends_a_paused_job(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job = submit_planned(stack, engine, worker_id)
    change(stack, engine, job, paused=True, deadline=datetime.now(UTC) - timedelta(seconds=1))
    with engine.begin() as connection:
        (request,) = stop_jobs(connection)
    assert request == stopping.StopRequest(job, False, request.reason)
    assert stack.job(job).failed == 40


def test_a_deadline_is_moved_and_taken_away(stack: Stack, engine: Engine) -> None:
    job = stack.submit(REQUEST, deadline=LATER)
    change(stack, engine, job, deadline=LATER + timedelta(hours=1))
    assert stack.job(job).deadline == LATER + timedelta(hours=1)
    change(stack, engine, job, deadline=None)
    assert stack.job(job).deadline is None


def test_a_retried_job_is_not_paused(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job = submit_planned(stack, engine, worker_id)
    (held, *_) = claim(engine, worker_id, count=1)
    change(stack, engine, job, paused=True, tags=["kept"])
    settle_shard(engine, held)
    call_function(stack, "cancel_job", job)
    with engine.begin() as connection:
        stop_jobs(connection)
        connection.execute(text("UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE id = :id"), {"id": job})
        connection.execute(text("DELETE FROM work WHERE job_id = :id"), {"id": job})
    assert call_function(stack, "retry_job", job) == 2
    assert apply(engine, job) == Applied.DONE
    assert (stack.job(job).paused, stack.job(job).tags) == (False, ["kept"])
    assert len(claim(engine, worker_id, "plan")) == 1


def test_only_the_tags_of_an_ended_job_change(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job = stack.submit(REQUEST)
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET state = 'rejected', finished_at = now() WHERE id = :id"), {"id": job})
    assert ask(stack, job, priority=5, tags=["b", "a", "b"]) == "rejected"
    apply(engine, job)
    assert (stack.job(job).priority, stack.job(job).tags) == (0, ["a", "b"])


def test_a_job_that_another_transaction_has_locked_keeps_its_request(stack: Stack, engine: Engine) -> None:
    job = stack.submit(REQUEST)
    ask(stack, job, priority=1)
    with engine.begin() as other:
        other.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": job})
        assert apply(engine, job) == Applied.WAITING
        with engine.connect() as connection:
            assert job not in changing.find_change_requests(connection)  # for a second
    ask(stack, job, tags=["x"])
    assert apply(engine, job) == Applied.DONE
    assert (stack.job(job).priority, stack.job(job).tags) == (1, ["x"])


def test_requests_of_a_deleted_job_go(stack: Stack, engine: Engine) -> None:
    job = stack.submit(REQUEST)
    ask(stack, job, priority=1)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": job})
    assert apply(engine, job) == Applied.DONE
    with engine.connect() as connection:
        assert job not in changing.find_change_requests(connection)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ("[]", "changes: [] is not allowed; permitted: a JSON object with one or more of deadline, paused"),
        ("{}", "changes: {} is not allowed"),
        ('{"state": "succeeded"}', "changes: state is not a known field; permitted: deadline, paused, priority, tags"),
        ('{"priority": 101}', "priority: 101 is not allowed; permitted: an integer from -100 to 100"),
        ('{"priority": 1.5}', "priority: 1.5 is not allowed"),
        ('{"priority": "1"}', 'priority: "1" is not allowed'),
        ('{"priority": 1e400}', "priority: 1"),
        ('{"paused": 1}', "paused: 1 is not allowed; permitted: true or false"),
        ('{"paused": null}', "paused: null is not allowed"),
        ('{"deadline": "soon"}', 'deadline: "soon" is not allowed; permitted: a time from 2000-01-01 to 9998-12-31'),
        ('{"deadline": "infinity"}', 'deadline: "infinity" is not allowed'),
        ('{"deadline": 5}', "deadline: 5 is not allowed"),
        ('{"deadline": "2020-01-01"}', "deadline: 2020-01-01T00:00:00+00:00 is not allowed for job"),
        ('{"tags": "a"}', 'tags: "a" is not allowed; permitted: a list of at most 16 texts'),
        ('{"tags": [1]}', "tags: [1] is not allowed"),
        ('{"tags": [""]}', 'tags: "" is not allowed; permitted: text of 1 to 100 characters'),
        (json.dumps({"tags": [str(n) for n in range(17)]}), "tags: 17 tags are not allowed; permitted: at most 16"),
    ],
)
def test_a_change_that_is_not_allowed_says_what_is(client: psycopg.Connection, changes: str, complaint: str) -> None:
    job = fetch_value(
        client, "INSERT INTO jobs (model, request, run_after) VALUES ('m', '{}', %s) RETURNING id", (LATER,)
    )
    client.execute("SET timezone = 'UTC'")
    with pytest.raises(psycopg.Error) as error:
        client.execute("SELECT change_job(%s, %s)", (job, changes))
    assert str(error.value).startswith(complaint)


def test_other_tenants_jobs_are_not_changed(client: psycopg.Connection, other_tenant: psycopg.Connection) -> None:
    job = fetch_value(client, "INSERT INTO jobs (model, request) VALUES ('m', '{}') RETURNING id")
    with pytest.raises(psycopg.Error, match=f"job: you have no job {job}"):
        other_tenant.execute("SELECT change_job(%s, '{\"paused\": true}')", (job,))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        client.execute("SELECT * FROM change_requests")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        client.execute("SELECT apply_change(%s, 1)", (job,))


def test_tags_are_given_at_submission_in_every_way(client: psycopg.Connection) -> None:
    direct = fetch_value(client, "INSERT INTO jobs (model, request, tags) VALUES ('m', '{}', '{b,a,b}') RETURNING id")
    one = fetch_value(client, 'SELECT submit_job(\'{"model": "m", "request": {}, "tags": ["night", "a"]}\')')
    many = fetch_value(client, 'SELECT submit_jobs(\'[{"model": "m", "request": {}, "tags": ["é"]}]\')')
    for job, tags in ((direct, ["a", "b"]), (one, ["a", "night"]), (many, ["é"])):
        assert fetch_value(client, "SELECT tags FROM jobs WHERE id = %s", (job,)) == tags
    for statement in (
        "INSERT INTO jobs (model, request, tags) VALUES ('m', '{}', '{NULL}')",
        'SELECT submit_job(\'{"model": "m", "request": {}, "tags": {}}\')',
        'SELECT submit_jobs(\'[{"model": "m", "request": {}, "tags": [""]}]\')',
    ):
        with pytest.raises(psycopg.Error, match=r"tags: .* is not allowed; permitted: "):
            client.execute(statement)


def test_a_paused_job_that_ends_keeps_no_request(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job = submit_planned(stack, engine, worker_id)
    shards = claim(engine, worker_id)
    assert change(stack, engine, job, paused=True) == Applied.WAITING
    for shard in shards:
        settle_shard(engine, shard)
    assert apply(engine, job) == Applied.DONE
    assert [work.kind for work in claim(engine, worker_id, "finalize")] == ["finalize"]
