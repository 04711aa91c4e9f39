"""What a job and its items may ask of sampling, together and apart."""

from typing import Any

import pytest

from services.job_requests.canvas import CANVAS, Canvas
from services.job_requests.image_spec import image_cost, image_spec
from services.job_requests.schema import Limits, item_schema, plan_request, published_schema
from services.job_requests.strict_json import RequestError
from services.registry.releases import request_rules
from training.model.release import ITEM_FIELDS, Release

CONDITIONS: dict[str, Any] = {
    "type": "object",
    "properties": {"class_label": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["class_label"],
    CANVAS: Canvas(1, 32, 32, unit=8),
}
ITEM = {"class_label": 3}
LIMITS = Limits(["outputs/default"], ["inputs/default"], bucket="ours")


def refusal(request: dict[str, Any], conditions: dict[str, Any] = CONDITIONS) -> str:
    with pytest.raises(RequestError) as error:
        plan_request(request, conditions, LIMITS)
    return str(error.value)


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (
            {"items": [ITEM], "eta": 0.5},
            "eta: 0.5 is not allowed; permitted: 0 with the solver dpm_solver_2m, or the solver ddim",
        ),
        ({"items": [ITEM], "eta": 2, "solver": "ddim"}, "eta: 2 is not allowed; permitted: a number from 0 to 1"),
        (
            {"items": [ITEM, {**ITEM, "eta": 1, "solver": "heun"}]},
            "items[1].eta: 1 is not allowed; permitted: 0 with the solver heun, or the solver ddim",
        ),
        (
            {"items": [{**ITEM, "guidance_interval": [0.9, 0.1]}]},
            "items[0].guidance_interval: [0.9, 0.1] is not allowed; permitted: the lower number first",
        ),
        (
            {"items": [{**ITEM, "negative": {}}]},
            "items[0].negative: {} is not allowed; permitted: a JSON object with at least one of class_label",
        ),
        (
            {"items": [ITEM], "negative": {"class_label": 10}},
            "negative.class_label: 10 is not allowed; permitted: an integer from 0 to 9",
        ),
        ({"items": [ITEM], "negative": {"caption": "x"}}, "negative.caption: not a known field; permitted: class_l"),
        (
            {"items": [ITEM], "strength": 0.5},
            "strength: 0.5 is not allowed; permitted: with an image to begin with, in the field image",
        ),
        (
            {"items": [{**ITEM, "strength": 0}], "image": "AA"},
            "items[0].strength: 0 is not allowed; permitted: a number from 0.01 to 1",
        ),
        (
            {"items": [{**ITEM, "mask": "AA"}]},
            "items[0].mask: 'AA' is not allowed; permitted: with an image to begin with, in the field image",
        ),
        (
            {"items": [ITEM, {**ITEM, "solver": "heun"}], "solver": "ddim", "eta": 0.5},
            "items[1].eta: 0.5 is not allowed; permitted: 0 with the solver heun, or the solver ddim",
        ),
        (
            {"items": [{**ITEM, "mask": "AA"}, ITEM], "image": "AA"},
            "strength: missing; give a number from 0.01 to 1 for the image, or a mask, for the job or for each item",
        ),
        (
            {"items": [{**ITEM, "image": "AA"}]},
            "items[0].strength: missing; give a number from 0.01 to 1 for the image, or a mask",
        ),
        (
            {"items": [ITEM, {**ITEM, "size": [100, 60]}]},
            "items[1].size: [100, 60] is not allowed; permitted: multiples of 8 up to 2048, and at most 65536 pixels "
            "in all; the nearest is [96, 64]",
        ),
        (
            {"items": [ITEM], "size": [64]},
            "size: [64] is not allowed; permitted: a list of 2, each an integer from 1 to 2048",
        ),
        ({"items": [ITEM], "size": [64, 4096]}, "size[1]: 4096 is not allowed; permitted: an integer from 1 to 2048"),
        ({"items": [ITEM], "image": 3}, "image: 3 is not allowed; permitted: a base64-encoded image file, or the s3"),
    ],
)
def test_a_mistake_names_the_field_the_value_and_what_is_permitted(request_: dict[str, Any], line: str) -> None:
    message = refusal(request_)
    assert message.startswith(line)
    assert len(message.splitlines()) == 1


def test_a_release_that_cannot_be_guided_has_nothing_to_lead_away_from() -> None:
    request = {"items": [ITEM], "negative": ITEM}
    assert "without condition dropout" in refusal(request, {**CONDITIONS, "guided": False})
    unconditional = {"type": "object", "properties": {}, "guided": False}
    assert refusal({"items": [{"negative": {}}]}, unconditional) == (
        "items[0].negative: {} is not allowed; permitted: nothing; this release has no conditions to lead away from"
    )


def test_the_names_that_no_condition_can_have_are_the_fields_of_every_item() -> None:
    assert item_schema({CANVAS: CONDITIONS[CANVAS]})["properties"].keys() == ITEM_FIELDS


def test_no_sampling_has_more_steps_than_the_training_had_timesteps() -> None:
    architecture = {"unet": {"multipliers": [1]}, "diffusion": {"timesteps": 100}}
    release = Release("digits", "diffusion", architecture, (1, 32, 32), (2, 8, 8), {})
    rules = request_rules(release.to_json())
    assert plan_request({"items": [{"steps": 100}]}, rules, LIMITS)["items"] == [{"steps": 100}]
    line = "steps: 101 is not allowed; permitted: an integer from 1 to 100"
    assert refusal({"items": [{}], "steps": 101}, rules) == line
    assert refusal({"items": [{"steps": 101}]}, rules) == f"items[0].{line}"
    assert published_schema(rules)["properties"]["steps"]["maximum"] == 100


def test_an_image_costs_its_area() -> None:
    items = [ITEM, {**ITEM, "size": [64.0, 32]}, {**ITEM, "size": [8, 8]}]
    plan = plan_request({"items": items, "steps": 10, "guidance_scale": 1}, CONDITIONS, LIMITS)
    specs = [image_spec(plan, item, i) for i, item in enumerate(plan["items"])]
    assert [image_cost(spec) for spec in specs] == [10, 20, 1]
    assert [spec.size for spec in specs] == [None, (64, 32), (8, 8)]


def test_an_image_costs_the_steps_that_its_strength_leaves() -> None:
    def cost(**fields: Any) -> int:
        plan = plan_request({"items": [{**ITEM, "image": "AA", **fields}]}, CONDITIONS, LIMITS)
        return image_cost(image_spec(plan, plan["items"][0], 0))

    assert cost(strength=0.5, guidance_scale=1) == 10
    assert cost(strength=0.5) == 20
    assert cost(strength=0.5, guidance_interval=[0.25, 0.75]) == 15
    assert cost(strength=0.01) == 2


def test_an_item_overrides_every_sampling_field_of_its_job() -> None:
    own = {
        "steps": 4,
        "solver": "ddim",
        "spacing": "karras",
        "eta": 1,
        "guidance_scale": 3,
        "guidance_interval": [0.25, 0.5],
        "guidance_rescale": 0.5,
    }
    plan = plan_request({"items": [ITEM, {**ITEM, **own}], "solver": "heun", "seed": 1}, CONDITIONS, LIMITS)
    first, second = (image_spec(plan, plan["items"][i], i) for i in range(2))
    assert (first.solver, first.spacing, first.steps, first.eta) == ("heun", "trailing", 20, 0)
    assert (second.solver, second.spacing, second.steps, second.eta) == ("ddim", "karras", 4, 1)
    assert (second.guidance_scale, second.guidance_interval, second.guidance_rescale) == (3, (0.25, 0.5), 0.5)
