"""Whatever an item asks of sampling, its image does not depend on the images beside it."""

from typing import Any

from tests.support.stack import Process, Stack

JOB: dict[str, Any] = {"steps": 4, "seed": 7, "guidance_scale": 2.0}
ITEMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "negative": {"negative": {"class_label": 1}},
    "eta": {"solver": "ddim", "eta": 1.0},
    "solver": {"solver": "heun", "spacing": "karras", "guidance_interval": [0.2, 0.8], "guidance_rescale": 0.5},
}


def test_what_an_item_asks_gives_the_same_bytes_alone_and_in_company(
    stack: Stack, dispatcher: Process, worker: Process
) -> None:
    items = [{"class_label": 3, "seed": 5, **asked} for asked in ITEMS.values()]
    together = stack.submit({**JOB, "items": items, "images_per_item": 2})
    alone = [stack.submit({**JOB, "items": [item]}) for item in items]
    for job_id in (together, *alone):
        assert stack.wait(job_id).state == "succeeded", stack.wait(job_id).reason
    found = {output.index: output.sha256 for output in stack.outputs(together)}
    assert len(set(found.values())) == 2 * len(items)
    for number, (name, job_id) in enumerate(zip(ITEMS, alone, strict=True)):
        (output,) = stack.outputs(job_id)
        assert output.sha256 == found[2 * number], name
