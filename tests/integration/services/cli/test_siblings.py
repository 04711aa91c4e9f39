"""The same request to several releases: a job for each with equal seeds, and their images side by side."""

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from services.client import Darkroom as Client
from services.job_queue import clients
from tests.support.commands import Darkroom
from tests.support.console import make_job, remove_jobs
from tests.support.stack import Stack
from tests.support.tenants import end_open_jobs


def test_several_releases_get_a_job_each_with_equal_seeds(stack: Stack, darkroom_here: Darkroom) -> None:
    request = json.dumps({"items": [{"class_label": 3}]})
    submit = ["jobs", "submit", "--model", "tiny", "--model", "tiny@1", "--request", request]
    submit += ["--run-after", "2100-01-01", "--tag", "pair"]
    ids = json.loads(darkroom_here(*submit, "--json").stdout)["ids"]
    try:
        with Client() as client:
            later = datetime(2100, 1, 1, tzinfo=UTC)
            ids += [str(job.id) for job in client.submit_each(["tiny", "up"], {"items": [{}]}, run_after=later)]
        with stack.engine("submitter").connect() as connection:
            jobs = [clients.find_job(connection, uuid.UUID(one)) for one in ids]
        assert [job and job.model for job in jobs] == ["tiny", "tiny@1", "tiny", "up"]
        seeds = [job and job.request["seed"] for job in jobs]
        assert (seeds[0], seeds[2]) == (seeds[1], seeds[3])
        assert darkroom_here("jobs", "list", "--tag", "pair", "--json").stdout.count('"tiny') == 2
        wrong = darkroom_here(*submit, "--idempotency-key", "k")
        assert (wrong.returncode, "names one job; permitted: with one --model" in wrong.stderr) == (1, True)
    finally:
        end_open_jobs(stack)


def test_jobs_stand_side_by_side_on_a_sheet(stack: Stack, darkroom_here: Darkroom, tmp_path: Path) -> None:
    items = [{"class_label": 1}, {"class_label": 2}, {"class_label": 3}]
    try:
        first, second = (str(make_job(stack, 6, items=items, pictures=6, size=32, model=one)) for one in ("a@1", "b@2"))
        other = str(make_job(stack, 4, items=items[:2], pictures=1))
        path = tmp_path / "sheet.png"
        done = darkroom_here("jobs", "sheet", first, second, "--scale", "1", "--output", str(path))
        assert done.returncode == 0, done.stderr
        with Image.open(path) as sheet:
            assert sheet.width > 4 * 34 + 2  # two images of an item and job, and the labels left of them
            assert sheet.height >= 3 * 34 + 2 + 15
        wrong = darkroom_here("jobs", "sheet", first, other)
        assert wrong.returncode == 1
        assert f"job: {other} has 2 items of 2 images; permitted: 3 items of 2 images, as in {first}" in wrong.stderr
    finally:
        remove_jobs(stack)
