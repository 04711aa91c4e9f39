"""Requests that stand for many items."""

import tracemalloc
from typing import Any

import pytest

from services.job_queue.plan import Plan
from services.job_requests.image_spec import image_spec
from services.job_requests.schema import Limits, plan_request
from services.job_requests.strict_json import RequestError

CONDITIONS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "class_label": {"type": "integer", "minimum": 0, "maximum": 9},
        "low_resolution": {"type": "string", "contentEncoding": "base64"},
    },
    "required": ["class_label"],
}
ITEM = {"class_label": 3}
LIMITS = Limits(["outputs/default"], ["inputs/default"], bucket="ours", max_images=1000)


def planned(**request: Any) -> Plan:
    return plan_request({"seed": 7, **request}, CONDITIONS, LIMITS)


def refusal(**request: Any) -> str:
    with pytest.raises(RequestError) as error:
        planned(**request)
    return str(error.value)


def test_a_walk_is_as_many_items_as_frames() -> None:
    walk = {"from": {**ITEM, "id": "walk"}, "to": {"class_label": 8, "seed": 40}, "frames": 5}
    plan = planned(interpolate=walk, images_per_item=2)
    assert [item["id"] for item in plan["items"]] == [f"walk-{frame}" for frame in range(5)]
    assert [item["toward"]["share"] for item in plan["items"]] == [0, 0.25, 0.5, 0.75, 1]
    specs = [image_spec(plan, plan["items"][index // 2], index) for index in range(10)]
    assert [spec.between for spec in specs[2:4]] == [(7, 40, 0.25), (8, 41, 0.25)]
    assert "interpolate" not in plan
    assert plan_request(plan, CONDITIONS, LIMITS) == plan


def test_a_walk_between_conditions_alone_keeps_its_noise() -> None:
    plan = planned(interpolate={"from": {**ITEM, "seed": 3}, "to": {"class_label": 8}, "frames": 3})
    assert {image_spec(plan, item, index).seed for index, item in enumerate(plan["items"])} == {3}
    assert image_spec(plan, plan["items"][1], 1).between is None


def test_variations_lie_between_the_first_seed_and_their_own() -> None:
    plan = planned(items=[{**ITEM, "seed": 20}], images_per_item=3, variations=0.25)
    specs = [image_spec(plan, plan["items"][0], index) for index in range(3)]
    assert [spec.between for spec in specs] == [(20, 20, 0.25), (20, 21, 0.25), (20, 22, 0.25)]


def test_a_grid_is_an_item_for_each_cell_whose_last_axis_changes_first() -> None:
    plan = planned(
        items=[{**ITEM, "id": "a"}, ITEM], grid={"steps": [5, 9], "guidance_scale": [1, 2, 3]}, images_per_item=2
    )
    cells = [(item["steps"], item["guidance_scale"]) for item in plan["items"]]
    assert cells == [(5, 1), (5, 2), (5, 3), (9, 1), (9, 2), (9, 3)] * 2
    assert [item.get("id") for item in plan["items"]] == [f"a-{place}" for place in range(6)] + [None] * 6
    assert [item["seed"] for item in plan["items"]] == [7] * 6 + [9] * 6, "an item has the same noise in all its cells"
    assert plan["axes"] == [["steps", [5, 9]], ["guidance_scale", [1, 2, 3]]]
    assert "grid" not in plan


def test_a_grid_may_give_what_items_need() -> None:
    plan = planned(grid={"class_label": [1, 2], "seed": [4, 5]})
    assert [(item["class_label"], item["seed"]) for item in plan["items"]] == [(1, 4), (2, 4), (1, 5), (2, 5)]
    walk = {"from": ITEM, "to": {"class_label": 8}, "frames": 3}
    assert len(planned(interpolate=walk, grid={"solver": ["ddim", "heun"]})["items"]) == 6


def test_a_grid_of_a_billion_is_refused_before_it_is_made() -> None:
    """Its cells are counted; they would take gigabytes."""
    thousand = list(range(1000))
    tracemalloc.start()
    message = refusal(items=[ITEM], grid={"seed": thousand, "guidance_scale": [1.5] * 1000, "eta": [0] * 1000})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message == "grid: 1000000000 items are not allowed; permitted: at most 10000"
    assert peak < 20 * 2**20


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (
            {"interpolate": {"from": ITEM, "to": {"seed": 1}, "frames": 3}, "items": [ITEM]},
            "items: given together with interpolate; give only one of them",
        ),
        (
            {"interpolate": {"from": ITEM, "to": {"seed": 1}, "frames": 1}},
            "interpolate.frames: 1 is not allowed; permitted: an integer from 2 to 1000",
        ),
        (
            {"interpolate": {"from": ITEM, "to": {}, "frames": 3}},
            "interpolate.to: {} is not allowed; permitted: a JSON object with at least one of class_label, seed",
        ),
        (
            {"interpolate": {"from": {}, "to": {"seed": 1}, "frames": 3}},
            "interpolate.from.class_label: missing; give an integer from 0 to 9",
        ),
        (
            {"interpolate": {"from": ITEM, "to": {"low_resolution": "AA"}, "frames": 3}},
            "interpolate.to.low_resolution: not a known field; permitted: class_label, seed",
        ),
        (
            {"interpolate": {"from": ITEM, "to": {"seed": 1}, "frames": 1000}, "images_per_item": 2},
            "items x images_per_item: 2000 images are not allowed; permitted: at most 1000",
        ),
        (
            {"interpolate": {"from": {**ITEM, "low_resolution": "A" * 10_000}, "to": {"seed": 1}, "frames": 999}},
            "interpolate: its items have 10044945 bytes of JSON; permitted: at most 4194304. Give images as objects",
        ),
        ({"grid": {"seed": [1]}}, "items: missing; give items or input_uri, or interpolate, or a grid of class_label"),
        (
            {"items": [ITEM], "grid": {}},
            "grid: {} is not allowed; permitted: a JSON object with at least one and at most 4",
        ),
        ({"items": [ITEM], "grid": {"id": ["a"]}}, "grid.id: not a known field; permitted: class_label, decoder"),
        ({"items": [ITEM], "grid": {"seed": []}}, "grid.seed: [] is not allowed; permitted: a list of 1 to 1000 items"),
        ({"items": [ITEM], "grid": {"steps": [5, 0]}}, "grid.steps[1]: 0 is not allowed; permitted: an integer from 1"),
        (
            {"input_uri": "inputs/default/a", "grid": {"seed": [1]}},
            "grid: given together with input_uri; permitted: with items or interpolate",
        ),
        (
            {"items": [ITEM], "grid": {"seed": [*range(600)]}, "images_per_item": 2},
            "items x images_per_item: 1200 images are not allowed; permitted: at most 1000",
        ),
        (
            {"items": [ITEM], "grid": {"solver": ["ddim", "lms"], "eta": [0, 1]}},
            "items[3].eta: 1 is not allowed; permitted: 0 with the solver lms, or the solver ddim",
        ),
        (
            {"items": [{**ITEM, "toward": {"seed": 1}}]},
            "items[0].toward.share: missing; give a number from 0 to 1",
        ),
        (
            {"items": [{**ITEM, "toward": {"share": 0.5}}]},
            "items[0].toward: {'share': 0.5} is not allowed; permitted: with a seed or conditions",
        ),
        (
            {"items": [ITEM, {**ITEM, "steps": 9}], "grid": {"steps": [2, 4], "seed": [1]}},
            "items[1].steps: given together with grid.steps; give only one of them",
        ),
        (
            {"interpolate": {"from": ITEM, "to": {"seed": 1}, "frames": 3}, "grid": {"class_label": [1, 2]}},
            "interpolate.from.class_label: given together with grid.class_label; give only one of them",
        ),
        (
            {"items": [{**ITEM, "toward": {"seed": 1, "share": 0.5}}], "variations": 0.5},
            "variations: 0.5 is not allowed; permitted: without toward and interpolate",
        ),
    ],
)
def test_a_mistake_names_the_field_the_value_and_what_is_permitted(request_: dict[str, Any], line: str) -> None:
    message = refusal(**request_)
    assert message.startswith(line)
    assert len(message.splitlines()) == 1
