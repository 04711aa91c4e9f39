"""`darkroom jobs cancel`: one job, several, or all."""

import json
import time
import uuid

import pytest
from sqlalchemy import text

from tests.support.commands import Darkroom
from tests.support.job_queue import empty_queue
from tests.support.stack import Stack

MANY = 5_000


@pytest.fixture(autouse=True)
def no_jobs(stack: Stack) -> None:
    empty_queue(stack.engine("migrator"))


def submit(stack: Stack, count: int) -> list[str]:
    """Submit jobs that no dispatcher plans. Returns their ids in order."""
    with stack.engine("submitter").begin() as connection:
        rows = connection.execute(
            text("""
                INSERT INTO jobs (model, request)
                SELECT 'tiny', '{"items": [{"class_label": 1}]}' FROM generate_series(1, :count) RETURNING id
            """),
            {"count": count},
        )
        return sorted(str(row.id) for row in rows)


def requested(stack: Stack) -> list[str]:
    with stack.engine("migrator").connect() as connection:
        jobs = connection.scalars(text("SELECT id FROM jobs JOIN cancel_requests ON job_id = id ORDER BY id"))
        return [str(job) for job in jobs]


def test_several_jobs_are_cancelled_and_others_not(stack: Stack, darkroom_here: Darkroom) -> None:
    ids = submit(stack, 4)
    assert json.loads(darkroom_here("jobs", "cancel", ids[0], "--json").stdout) == {
        "id": ids[0],
        "cancel_requested": True,
    }
    done = darkroom_here("jobs", "cancel", ids[1], ids[2], ids[1])
    assert (done.returncode, done.stdout) == (0, "Jobs that are being cancelled: 2.\n"), done.stderr
    assert requested(stack) == ids[:3]


def test_all_jobs_are_cancelled_in_sets(stack: Stack, darkroom_here: Darkroom) -> None:
    ids = submit(stack, MANY)
    began = time.monotonic()
    done = darkroom_here("jobs", "cancel", "--all")
    assert (done.returncode, done.stdout) == (0, f"Jobs that are being cancelled: {MANY}.\n"), done.stderr
    assert time.monotonic() - began < 10
    assert requested(stack) == ids
    assert "cancelling" in done.stderr  # the progress
    again = darkroom_here("jobs", "cancel", "--all", "--json")
    assert json.loads(again.stdout) == {"jobs": MANY, "cancel_requested": True}
    assert again.stderr == ""


def test_an_unknown_job_among_several_is_named(stack: Stack, darkroom_here: Darkroom) -> None:
    ids, unknown = submit(stack, 1), str(uuid.UUID(int=7))
    done = darkroom_here("jobs", "cancel", ids[0], unknown)
    assert done.returncode == 1
    assert f"job: you have no job {unknown}" in done.stderr
    assert requested(stack) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the ids of jobs, or a filter such as --state or --tag, or --all"),
        (["--all", str(uuid.UUID(int=7))], "give the ids of jobs, or a filter such as --state or --tag, or --all"),
        (["x", str(uuid.UUID(int=7))], "job: 'x' is not a job id"),
    ],
)
def test_mistakes_are_named(stack: Stack, darkroom_here: Darkroom, arguments: list[str], message: str) -> None:
    done = darkroom_here("jobs", "cancel", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
