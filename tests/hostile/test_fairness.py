"""A tenant with a large backlog, whatever priority it asks for, hardly delays another one."""

import uuid
from collections.abc import Iterator

import pytest

from tests.support.stack import Process, Stack
from tests.support.tenants import QUICK, Tenant, administrator, end_open_jobs

pytestmark = pytest.mark.long

IMAGE = {"items": [{"class_label": 1}], "steps": 4, "guidance_scale": 1.0}
IMAGES = 6_000
MAX_PASSED = 3  # two shards, and one that is claimed before the plan is committed
NOTED = """
    CREATE TABLE noted (place bigserial PRIMARY KEY, work_id bigint NOT NULL, is_claim boolean NOT NULL);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO public.noted (work_id, is_claim) VALUES (new.id, tg_op = 'UPDATE');
        RETURN new;
    END $$;
    CREATE TRIGGER note_claim BEFORE UPDATE ON work FOR EACH ROW
        WHEN (new.state = 'leased' AND old.state <> 'leased') EXECUTE FUNCTION note();
    CREATE TRIGGER note_shard AFTER INSERT ON work FOR EACH ROW
        WHEN (new.kind = 'sample') EXECUTE FUNCTION note();
"""
FORGOTTEN = """
    DROP TRIGGER IF EXISTS note_claim ON work;
    DROP TRIGGER IF EXISTS note_shard ON work;
    DROP FUNCTION IF EXISTS note();
    DROP TABLE IF EXISTS noted;
"""
PASSED = """
    WITH own AS (SELECT min(place) AS ready, max(place) AS claimed FROM noted JOIN work ON id = work_id
                 WHERE job_id = %(job)s AND kind = 'sample')
    SELECT count(*) FROM own, noted JOIN work ON id = work_id
    WHERE is_claim AND kind = 'sample' AND job_id <> %(job)s AND place BETWEEN ready AND claimed
"""


@pytest.fixture(autouse=True)
def noted(stack: Stack) -> Iterator[None]:
    """Postgres notes when shards become ready and are claimed, so that those in between can be counted."""
    with administrator(stack) as owner:
        owner.execute(FORGOTTEN)
        owner.execute(NOTED)
    yield
    with administrator(stack) as owner:
        owner.execute(FORGOTTEN)


@pytest.fixture
def backlog(stack: Stack, attacker: Tenant, service: tuple[Process, Process]) -> Iterator[uuid.UUID]:
    """A job of the attacker that runs with the highest priority."""
    request = {**IMAGE, "items": [{"class_label": 1}] * 6, "images_per_item": IMAGES // 6}
    job = attacker.submit(request, priority=100)
    attacker.wait(job, "running")
    yield job
    end_open_jobs(stack)


def count_passed(stack: Stack, job: uuid.UUID) -> int:
    """Return how many shards of others were claimed while the one of this job was ready."""
    with administrator(stack) as owner:
        row = owner.execute(PASSED, {"job": job}).fetchone()
    assert row is not None
    return int(row[0])


def test_one_image_waits_for_at_most_two_shards_of_a_backlog_of_the_highest_priority(
    stack: Stack, neighbour: Tenant, backlog: uuid.UUID
) -> None:
    passed = []
    for priority in (0, -100, 0, 100, 0):
        job = neighbour.submit(IMAGE, priority=priority)
        assert neighbour.wait(job).state == "succeeded"
        passed.append(count_passed(stack, job))
    passed.sort()
    assert passed[-2] <= MAX_PASSED, passed
    assert passed[-1] <= 2 * MAX_PASSED, passed  # the processor may have been busy while one was planned


@pytest.fixture
def second_queue(stack: Stack, attacker: Tenant, neighbour: Tenant) -> Iterator[str]:
    """A queue that both tenants may use in this test."""
    permit = "UPDATE tenants SET permitted_queues = %s WHERE name IN ('attacker', 'neighbour')"
    with administrator(stack) as owner:
        owner.execute("INSERT INTO queues (name) VALUES ('second') ON CONFLICT DO NOTHING")
        owner.execute(permit, (["*"],))
    yield "second"
    with administrator(stack) as owner:
        owner.execute(permit, (["default"],))


def test_a_backlog_in_one_queue_takes_no_turns_in_another(
    stack: Stack, attacker: Tenant, neighbour: Tenant, backlog: uuid.UUID, second_queue: str
) -> None:
    """A second worker serves another queue, where the attacker has a backlog too. The neighbour uses both queues."""
    second = attacker.submit({**IMAGE, "images_per_item": 500}, queue=second_queue)
    attacker.wait(second, "planned")
    for _ in range(3):
        neighbour.wait(neighbour.submit({**IMAGE, "images_per_item": 100}))
    with stack.process("worker", **QUICK, DARKROOM_QUEUES=second_queue):
        attacker.wait(second, "running")
        job = neighbour.submit(IMAGE, queue=second_queue)
        assert neighbour.wait(job).state == "succeeded"
    assert count_passed(stack, job) <= 2 * MAX_PASSED  # two workers claim
