"""Chains: the images of one release are what the next one takes."""

import json
import signal
import time
import uuid
from typing import Any

import numpy as np
import pytest
from sqlalchemy import TextClause, text

from tests.support.chains import FINISH, JOB, UP, noise_seed, publish_chain, submit_chain
from tests.support.console import open_console
from tests.support.images import as_base64, image_file
from tests.support.job_queue import call_function
from tests.support.stack import Process, Stack


@pytest.fixture(scope="module", autouse=True)
def releases(stack: Stack) -> None:
    """A release of 8x8 pixels and one that makes 32x32 of them."""
    publish_chain(stack)


def by_hand(stack: Stack, model: str, image: bytes | None, seed: int, **fields: Any) -> bytes:
    """Make one image by a job of its own."""
    request = {**JOB, "items": [{**fields, "seed": seed}]}
    if image is not None:
        request["items"][0]["image" if "strength" in fields else "low_resolution"] = as_base64(image)
    job = stack.submit(request, model=model)
    assert stack.wait(job).state == "succeeded", stack.wait(job).reason
    return stack.images(job)[0]


def test_a_chain_has_the_images_of_its_stages_made_by_hand(stack: Stack, dispatcher: Process, worker: Process) -> None:
    items = [{"class_label": 3}, {"class_label": 8, "seed": 99}]
    job = submit_chain(stack, {"items": items, "images_per_item": 10, "then": [UP, {**FINISH, "keep": True}]})
    alone = submit_chain(stack, {"items": [{"class_label": 8, "seed": 101}], "then": [UP, FINISH]})
    for one, total in ((job, 20), (alone, 1)):
        row = stack.wait(one)
        assert (row.state, row.total, row.succeeded) == ("succeeded", total, total), row.reason
    images = stack.images(job)
    assert len(set(images.values())) == 20
    assert stack.images(alone)[0] == images[12]  # whatever company it has
    assert stack.outputs(job)[12].seed == 101

    small = by_hand(stack, "small@1", None, 101, class_label=8)
    up = by_hand(stack, "tiny-up@1", small, noise_seed(101, 1))
    assert by_hand(stack, "tiny@production", up, noise_seed(101, 2), class_label=8, strength=0.5, steps=4) == images[12]

    page = open_console(stack).get(f"/jobs/{job}").text
    stages_shown = " ".join(f"<span><bdi>{name}</bdi> 20</span>" for name in ("small@1", "tiny-up@1", "tiny@1"))
    assert f"Stages: {stages_shown}" in page
    with stack.engine("submitter").connect() as connection:
        stages = connection.execute(
            text("SELECT stage, model, is_last, made FROM job_stages WHERE job_id = :id ORDER BY stage"), {"id": job}
        ).all()
        kept = connection.execute(
            text("SELECT key FROM stage_outputs WHERE job_id = :id AND index = 12 ORDER BY stage"), {"id": job}
        ).all()
    assert [tuple(row) for row in stages] == [
        (0, "small@1", False, 20), (1, "tiny-up@1", False, 20), (2, "tiny@1", True, 0)
    ]  # fmt: skip
    assert [stack.store().get(row.key) for row in kept] == [small, up]


def test_what_fails_in_a_stage_ends_there_and_the_rest_goes_on(
    stack: Stack, dispatcher: Process, worker: Process
) -> None:
    """The items are lines of an object. The first release begins with images, of which one has another shape."""
    wide, square = (
        stack.upload(f"chain-{width}.png", image_file(np.full((32, width), 99, np.uint8))) for width in (64, 32)
    )
    lines: list[dict[str, Any]] = [{"class_label": 3, "image": uri, "strength": 0.5} for uri in (square, wide, square)]
    lines += [{"class_label": 3, "size": [64, 32]}]  # which the second stage does not take
    body = "".join(json.dumps({"id": f"line-{number}", **line}) + "\n" for number, line in enumerate(lines))
    request = {"input_uri": stack.upload("chain.jsonl", body.encode()), "then": [FINISH], "output": {"archive": "tar"}}
    job = stack.submit({**JOB, **request})
    row = stack.wait(job)
    assert (row.state, row.succeeded, row.failed) == ("partial", 2, 2), row.reason
    outputs = stack.outputs(job)
    assert [bool(one.key) for one in outputs] == [True, False, True, False]
    assert outputs[1].error.startswith("image: 64 pixels wide and 32 high is not allowed")
    assert outputs[3].error.startswith("line 4: then[0].image: 64 pixels wide and 32 high is not allowed")
    manifest = json.loads(stack.store().get(row.manifest_key))
    assert [archive["images"] for archive in manifest["archives"]] == [2]
    assert [stage["model"] for stage in manifest["stages"]] == ["tiny@1", "tiny@1"]
    with stack.engine("submitter").connect() as connection:
        made = connection.execute(text("SELECT index, key FROM stage_outputs WHERE job_id = :id"), {"id": job}).all()
    assert {index for index, _ in made} == {0, 2}

    assert call_function(stack, "retry_job", job) == 2
    again = stack.wait(job, "partial", "failed")
    assert (again.revision, again.succeeded, again.failed) == (2, 2, 2)
    assert stack.outputs(job)[1].error == outputs[1].error


def test_a_worker_that_dies_between_stages_loses_no_image(stack: Stack) -> None:
    """Another one goes on with what it held, in the stage in which it was."""
    quick = {"DARKROOM_STALE_S": "2", "DARKROOM_HEARTBEAT_S": "0.5"}
    with stack.process("dispatcher", **quick), stack.process("worker", **quick) as victim:
        job = submit_chain(stack, {"items": [{"class_label": 3}], "images_per_item": 48, "then": [UP, FINISH]})
        query = text("SELECT count(*) FROM stage_outputs WHERE job_id = :id")
        deadline = time.monotonic() + 120
        while not count(stack, query, job):
            assert time.monotonic() < deadline, "no stage has made an image"
            time.sleep(0.01)
        victim.child.send_signal(signal.SIGKILL)
        victim.child.wait()
        with stack.process("worker", **quick):
            row = stack.wait(job)
    assert (row.state, row.succeeded) == ("succeeded", 48), row.reason
    assert count(stack, query, job) == 2 * 48
    assert len(set(stack.images(job).values())) == 48
    made = text("SELECT sum(made) FROM job_stages WHERE job_id = :id")
    assert count(stack, made, job) == 2 * 48  # each once


def count(stack: Stack, query: TextClause, job: uuid.UUID) -> int:
    """Return the number that a query finds for a job."""
    with stack.engine("migrator").connect() as connection:
        return int(connection.execute(query, {"id": job}).scalar_one() or 0)


def test_an_estimate_counts_all_stages_and_a_chain_that_does_not_fit_is_refused(
    stack: Stack, dispatcher: Process, worker: Process
) -> None:
    item = {"items": [{"class_label": 3}]}
    dry = submit_chain(stack, {**item, "images_per_item": 5, "then": [UP, FINISH], "dry_run": True})
    assert stack.wait(dry).estimate["evaluations"] == 5 * (4 + 4 + 4)
    for then, reason in (
        ([{"model": "nothing"}], "then[0].model: no release is called 'nothing'"),
        ([UP, UP], "then[1].low_resolution: images of 32 x 32 pixels are not allowed; permitted: 8 x 8"),
        ([UP] * 5, "then: ["),
    ):
        row = stack.wait(submit_chain(stack, {**item, "then": then}))
        assert row.state == "rejected"
        assert row.reason.startswith(reason), row.reason
