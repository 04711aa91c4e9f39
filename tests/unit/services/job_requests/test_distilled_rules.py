"""What may be requested of a release that was distilled to few steps."""

from typing import Any

import pytest

from services.job_requests.canvas import CANVAS, Canvas
from services.job_requests.image_spec import image_cost, image_spec
from services.job_requests.schema import Limits, plan_request, published_schema
from services.job_requests.strict_json import RequestError
from training.model.release import Distilled

CONDITIONS: dict[str, Any] = {
    "type": "object",
    "properties": {"class_label": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["class_label"],
    "guided": True,
    CANVAS: Canvas(1, 32, 32, unit=8),
    "distilled": Distilled((1, 2, 4, 8), (1.0, 4.0), 8, 1.5).to_json(),
}
ITEM = {"class_label": 3}
LIMITS = Limits(["outputs/default"], ["inputs/default"], bucket="ours")


def test_a_request_that_says_nothing_gets_the_best_setting() -> None:
    plan = plan_request({"items": [ITEM]}, CONDITIONS, LIMITS)
    assert (plan["steps"], plan["solver"], plan["spacing"], plan["guidance_scale"]) == (8, "shortcut", "trailing", 1.5)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 4.0])
def test_every_permitted_setting_is_planned_and_costs_a_row_an_evaluation(steps: float) -> None:
    request = {"items": [{**ITEM, "guidance_scale": 1}, {**ITEM, "guidance_scale": 4.0}], "steps": steps}
    plan = plan_request(request, CONDITIONS, LIMITS)
    assert [image_cost(image_spec(plan, item, i)) for i, item in enumerate(plan["items"])] == [steps, steps]


def test_an_image_to_begin_with_is_permitted() -> None:
    plan = plan_request({"items": [ITEM], "image": "AA", "strength": 0.5, "steps": 4}, CONDITIONS, LIMITS)
    assert image_cost(image_spec(plan, plan["items"][0], 0)) == 2


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("steps", 3, "steps: 3 is not allowed; permitted: 1, 2, 4, 8"),
        ("steps", 20, "steps: 20 is not allowed; permitted: 1, 2, 4, 8"),
        ("guidance_scale", 0, "guidance_scale: 0 is not allowed; permitted: a number from 1.0 to 4.0"),
        ("guidance_scale", 4.5, "guidance_scale: 4.5 is not allowed; permitted: a number from 1.0 to 4.0"),
        ("solver", "ddim", "solver: 'ddim' is not allowed; permitted: shortcut"),
        ("spacing", "karras", "spacing: 'karras' is not allowed; permitted: trailing; this release was distilled"),
        ("eta", 0.5, "eta: 0.5 is not allowed; permitted: 0; this release was distilled"),
        ("guidance_rescale", 0.7, "guidance_rescale: 0.7 is not allowed; permitted: 0; this release was distilled, so"),
        ("guidance_interval", [0.2, 0.8], "guidance_interval: [0.2, 0.8] is not allowed; permitted: [0, 1]; this"),
        ("negative", {"class_label": 4}, "negative: {'class_label': 4} is not allowed; permitted: nothing; this rel"),
    ],
)
@pytest.mark.parametrize("in_item", [False, True])
def test_what_it_was_not_trained_for_is_refused(field: str, value: Any, line: str, in_item: bool) -> None:
    request = {"items": [{**ITEM, field: value}]} if in_item else {"items": [ITEM], field: value}
    with pytest.raises(RequestError) as error:
        plan_request(request, CONDITIONS, LIMITS)
    assert str(error.value).startswith(f"items[0].{line}" if in_item else line)


def test_its_neutral_settings_are_permitted() -> None:
    request = {
        "items": [ITEM],
        "guidance_interval": [0.0, 1.0],
        "guidance_rescale": 0.0,
        "eta": 0,
        "spacing": "trailing",
    }
    assert plan_request(request, CONDITIONS, LIMITS)["guidance_interval"] == [0.0, 1.0]


def test_the_solver_of_distilled_releases_is_not_offered_by_others() -> None:
    others = {name: value for name, value in CONDITIONS.items() if name != "distilled"}
    with pytest.raises(RequestError, match="solver: 'shortcut' is not allowed; permitted: ddim, "):
        plan_request({"items": [ITEM], "solver": "shortcut"}, others, LIMITS)


def test_the_published_schema_says_what_it_permits() -> None:
    properties = published_schema(CONDITIONS)["properties"]
    assert properties["steps"] == {"enum": [1, 2, 4, 8], "default": 8}
    assert properties["guidance_scale"] == {"type": "number", "minimum": 1.0, "maximum": 4.0, "default": 1.5}
    assert properties["items"]["items"]["properties"]["steps"] == {"enum": [1, 2, 4, 8]}
