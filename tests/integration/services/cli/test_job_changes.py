"""`darkroom jobs list`, `cancel`, `retry`, `set`, `pause` and `resume`: by ids and by filters."""

import json
import uuid
from typing import Any

import pytest
from sqlalchemy import text

from services.job_queue import changing
from services.job_queue.changing import Applied
from tests.support.commands import Darkroom
from tests.support.job_queue import empty_queue
from tests.support.stack import Stack

REQUEST = {"items": [{"class_label": 1}]}


@pytest.fixture(autouse=True)
def no_jobs(stack: Stack) -> None:
    empty_queue(stack.engine("migrator"))


def submit(stack: Stack, model: str = "tiny", *, state: str = "submitted", **columns: Any) -> str:
    """Submit a job that no dispatcher plans, and give it a state as if one had. Returns its id."""
    job_id = stack.submit(REQUEST, model, **columns)
    with stack.engine("migrator").begin() as connection:
        connection.execute(
            text("""
                UPDATE jobs SET state = :state, plan = '{"images_per_item": 1}',
                    finished_at = CASE WHEN CAST(:state AS text) IN ('failed', 'succeeded') THEN now() END
                WHERE id = :id AND :state <> 'submitted'
            """),
            {"id": job_id, "state": state},
        )
    return str(job_id)


def apply_changes(stack: Stack) -> None:
    """Do what a dispatcher does about all requests."""
    with stack.engine("migrator").begin() as connection:
        for job_id in changing.find_change_requests(connection):
            assert changing.apply_change(connection, job_id) == Applied.DONE


def listed(darkroom: Darkroom, *filters: str) -> list[str]:
    done = darkroom("jobs", "list", "--json", *filters)
    assert done.returncode == 0, done.stderr
    return sorted(job["id"] for job in json.loads(done.stdout))


def test_jobs_are_found_by_state_tag_model_queue_and_time(stack: Stack, darkroom_here: Darkroom) -> None:
    tagged = submit(stack, tags=["night", "a"])
    other = submit(stack, "tiny@production", tags=["night"], state="failed")
    plain = submit(stack, "small@1", state="planned")
    for filters, found in (
        ([], [tagged, other, plain]),
        (["--tag", "night"], [tagged, other]),
        (["--tag", "night", "--tag", "a"], [tagged]),
        (["--tag", "nights"], []),
        (["--state", "failed", "--state", "planned"], [other, plain]),
        (["--model", "tiny"], [tagged, other]),
        (["--model", "tiny@production"], [other]),
        (["--queue", "default", "--tag", "a"], [tagged]),
        (["--queue", "night"], []),
        (["--since", "2000-01-01"], [tagged, other, plain]),
        (["--until", "2000-01-01"], []),
    ):
        assert listed(darkroom_here, *filters) == sorted(found), filters
    assert darkroom_here("jobs", "list", "--tag", "nights").stdout == "No jobs match the filter.\n"


def test_jobs_are_counted_before_they_are_cancelled_by_a_filter(stack: Stack, darkroom_here: Darkroom) -> None:
    chosen = [submit(stack, tags=["night"]) for _ in range(3)]
    submit(stack), submit(stack, tags=["night"], state="succeeded")
    dry = darkroom_here("jobs", "cancel", "--tag", "night", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, "Jobs that would be cancelled: 3.\n"), dry.stderr

    def requested() -> list[str]:
        with stack.engine("migrator").connect() as connection:
            rows = connection.scalars(text("SELECT job_id FROM cancel_requests JOIN jobs ON id = job_id"))
            return sorted(map(str, rows))

    assert requested() == []
    done = darkroom_here("jobs", "cancel", "--tag", "night", "--json")
    assert json.loads(done.stdout) == {"jobs": 3, "cancel_requested": True}
    assert requested() == sorted(chosen)


def test_failed_jobs_are_retried_by_a_filter(stack: Stack, darkroom_here: Darkroom) -> None:
    failed = [submit(stack, state="failed", tags=["night"]) for _ in range(2)]
    submit(stack, state="failed")
    dry = darkroom_here("jobs", "retry", "--tag", "night", "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"jobs": 2, "dry_run": True}
    done = darkroom_here("jobs", "retry", "--tag", "night")
    assert (done.returncode, done.stdout) == (0, "Jobs that are being retried: 2.\n"), done.stderr
    assert [stack.job(uuid.UUID(job)).revision for job in failed] == [2, 2]
    one = submit(stack, state="failed")
    assert json.loads(darkroom_here("jobs", "retry", one, "--json").stdout) == {"id": one, "revision": 2}
    again = darkroom_here("jobs", "retry", one)
    assert again.returncode == 1
    assert "is submitted; only a planned job that ended partial, failed or cancelled can be retried" in again.stderr


def test_jobs_are_changed_paused_and_resumed(stack: Stack, darkroom_here: Darkroom) -> None:
    first, second = submit(stack, tags=["old"]), submit(stack)
    done = darkroom_here(
        "jobs", "set", first, second, "--priority", "9", "--deadline", "2030-01-01T00:00Z", "--tags", "b, a"
    )
    assert (done.returncode, done.stdout) == (0, "Jobs that are being changed: 2.\n"), done.stderr
    assert darkroom_here("jobs", "pause", first).stdout == f"{first} is being paused.\n"
    apply_changes(stack)
    job = json.loads(darkroom_here("jobs", "show", first, "--json").stdout)
    assert (job["priority"], job["deadline"], job["tags"], job["paused"]) == (
        9,
        "2030-01-01 00:00:00+00:00",
        ["a", "b"],
        True,
    )
    assert f"{first}  tiny   submitted (paused)" in darkroom_here("jobs", "list").stdout
    dry = darkroom_here("jobs", "resume", "--all", "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"jobs": 1, "dry_run": True}
    assert json.loads(darkroom_here("jobs", "resume", "--tag", "a", "--json").stdout) == {"jobs": 1, "paused": False}
    darkroom_here("jobs", "set", first, "--deadline", "none", "--tags", "")
    apply_changes(stack)
    row = stack.job(uuid.UUID(first))
    assert (row.paused, row.deadline, row.tags, row.priority) == (False, None, [], 9)


def test_only_the_tags_of_an_ended_job_can_be_set(stack: Stack, darkroom_here: Darkroom) -> None:
    ended = submit(stack, state="succeeded")
    assert darkroom_here("jobs", "set", ended, "--tags", "seen").returncode == 0
    refused = darkroom_here("jobs", "set", ended, "--priority", "1")
    assert refused.returncode == 1
    assert f"job: {ended} has already ended (succeeded); only its tags can be changed" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--state", "done"], "--state: 'done' is not a state; permitted: submitted, planned"),
        (["list", "--since", "noon"], "--since: 'noon' is not a time; permitted: such as 2030-01-31T18:00+01:00"),
        (["pause"], "give the ids of jobs, or a filter such as --state or --tag, or --all"),
        (["cancel", "--all", "--tag", "x"], "give the ids of jobs, or a filter"),
        (["set", str(uuid.UUID(int=7))], "nothing to change: give --priority, --deadline or --tags"),
        (["set", str(uuid.UUID(int=7)), "--priority", "1"], "job: you have no job 00000000"),
    ],
)
def test_mistakes_are_named(stack: Stack, darkroom_here: Darkroom, arguments: list[str], message: str) -> None:
    done = darkroom_here("jobs", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
