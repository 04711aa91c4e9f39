"""Whatever an item asks of sampling, its image does not depend on the images beside it."""

from base64 import b64decode
from typing import Any

import numpy as np

from tests.support.images import as_base64, image_file
from tests.support.stack import Process, Stack

JOB: dict[str, Any] = {"steps": 4, "seed": 7, "guidance_scale": 2.0}
RNG = np.random.default_rng(0)
PICTURE = as_base64(image_file(RNG.integers(0, 256, (32, 32), dtype=np.uint8)))
MASK = as_base64(image_file(np.where(RNG.random((32, 32)) < 0.3, np.uint8(255), np.uint8(0))))
ITEMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "negative": {"negative": {"class_label": 1}},
    "eta": {"solver": "ddim", "eta": 1.0},
    "solver": {"solver": "heun", "spacing": "karras", "guidance_interval": [0.2, 0.8], "guidance_rescale": 0.5},
    "image": {"image": PICTURE, "strength": 0.6},
    "mask": {"image": PICTURE, "mask": MASK},
    "toward": {"toward": {"class_label": 8, "seed": 99, "share": 0.4}},
    "wide": {"size": [96, 32]},
    "small": {"size": [16, 16], "image": PICTURE, "strength": 0.6},
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


def test_an_object_begins_an_image_as_its_bytes_do(stack: Stack, dispatcher: Process, worker: Process) -> None:
    """They may be those of the job, too. An object of another shape fails its image, and says why."""
    files = {"image": PICTURE, "mask": MASK}
    uris = {name: stack.upload(f"asked-{name}.png", b64decode(file)) for name, file in files.items()}
    wide = stack.upload("asked-wide.png", image_file(np.zeros((32, 64), np.uint8)))
    item = {"class_label": 3, "seed": 5}
    inline = stack.submit({**JOB, "items": [{**item, "image": PICTURE, "mask": MASK}]})
    stored = stack.submit({**JOB, **uris, "items": [item, {**item, "image": wide}]})
    assert stack.wait(inline).state == "succeeded"
    assert stack.wait(stored).state == "partial"
    good, bad = stack.outputs(stored)
    assert good.sha256 == stack.outputs(inline)[0].sha256
    assert bad.error == (
        "image: 64 pixels wide and 32 high is not allowed; permitted: the proportions of the output, "
        "32 wide and 32 high"
    )


def test_a_walk_ends_with_the_images_of_its_ends(stack: Stack, dispatcher: Process, worker: Process) -> None:
    ends = [{"class_label": 3, "seed": 5}, {"class_label": 8, "seed": 99}]
    plain = stack.submit({**JOB, "items": ends, "images_per_item": 2})
    walk = stack.submit({**JOB, "interpolate": {"from": ends[0], "to": ends[1], "frames": 3}, "images_per_item": 2})
    for job_id in (plain, walk):
        assert stack.wait(job_id).state == "succeeded", stack.wait(job_id).reason
    expected, found = (list(stack.images(job_id).values()) for job_id in (plain, walk))
    assert [*found[:2], *found[4:]] == expected
    assert len(set(found)) == 6


def test_a_grid_has_the_images_of_its_cells(stack: Stack, dispatcher: Process, worker: Process) -> None:
    grid = {"steps": [3, 4], "class_label": [3, 8]}
    cells = [{"steps": steps, "class_label": label, "seed": 7} for steps in (3, 4) for label in (3, 8)]
    jobs = [stack.submit({**JOB, "grid": grid}), stack.submit({**JOB, "items": cells})]
    for job_id in jobs:
        assert stack.wait(job_id).state == "succeeded", stack.wait(job_id).reason
    assert stack.images(jobs[0]) == stack.images(jobs[1])
    billion = {"grid": {name: [*range(1, 1001)] for name in ("seed", "steps")} | {"eta": [0] * 1000}}
    row = stack.wait(stack.submit({"items": [{"class_label": 3}], **billion}))
    assert row.state == "rejected"
    assert row.reason == "grid: 1000000000 items are not allowed; permitted: at most 10000"
