"""A request for one image of a job makes that image: the same noise, the same conditions, the same settings."""

from dataclasses import replace
from typing import Any

import pytest

from services.job_requests.again import VARIED, request_again, request_variations
from services.job_requests.image_spec import image_spec
from services.job_requests.schema import Limits, plan_request

RULES = {
    "type": "object", "properties": {"class_label": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["class_label"], "guided": True,
}  # fmt: skip
LIMITS = Limits(("outputs/default",))
ITEMS: list[dict[str, Any]] = [{"class_label": 3, "id": "a"}, {"class_label": 8, "seed": 100, "steps": 5}]
REQUESTS: list[dict[str, Any]] = [
    {"items": ITEMS, "images_per_item": 4, "seed": 7},
    {"items": ITEMS, "images_per_item": 4, "solver": "ddim", "eta": 0.5, "guidance_interval": [0.1, 0.9]},
    {
        "items": ITEMS,
        "images_per_item": 4,
        "seed": 7,
        "output": {"format": "jpeg", "name": "{id}-{index}", "archive": "tar"},
    },
    {"interpolate": {"from": {"class_label": 1, "seed": 4}, "to": {"seed": 9, "class_label": 2}, "frames": 5}},
    {"items": ITEMS[:1], "grid": {"steps": [5, 10], "guidance_scale": [1, 2]}, "images_per_item": 2, "seed": 3},
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_request_of_one_image_makes_it(request_: dict[str, Any]) -> None:
    if request_.get("output"):
        request_ = {**request_, "items": [{"class_label": 3, "id": "a"}, {"class_label": 8, "id": "b"}]}
    plan = plan_request(request_, RULES, LIMITS)
    per_item = plan["images_per_item"]
    for index in range(len(plan["items"]) * per_item):
        item = plan["items"][index // per_item]
        spec = image_spec(plan, item, index)
        again = plan_request(request_again(plan, item, index, spec.seed), RULES, LIMITS)
        (one,) = again["items"]
        remade = image_spec(again, one, 0)
        assert remade == replace(spec, index=0, item=0, name=None)
        assert one["class_label"] == item["class_label"]
        assert one.get("toward", {}).get("class_label") == item.get("toward", {}).get("class_label")
        assert again["format"] == plan["format"]


def test_an_image_of_variations_is_made_of_the_same_two_noises() -> None:
    plan = plan_request({"items": ITEMS[:1], "images_per_item": 4, "seed": 7, "variations": 0.25}, RULES, LIMITS)
    for index in range(4):
        spec = image_spec(plan, plan["items"][0], index)
        again = plan_request(request_again(plan, plan["items"][0], index, spec.seed), RULES, LIMITS)
        remade = image_spec(again, again["items"][0], 0)
        noises = remade.between or (remade.seed, remade.seed, 0.0)
        assert noises == (spec.between if index else (7, 7, 0.0))


def test_variations_begin_with_the_image_itself() -> None:
    plan = plan_request({"items": ITEMS, "images_per_item": 4, "seed": 7}, RULES, LIMITS)
    again = request_variations(request_again(plan, ITEMS[0], 2, 9))
    varied = plan_request(again, RULES, LIMITS)
    specs = [image_spec(varied, varied["items"][0], index) for index in range(VARIED)]
    assert [spec.between for spec in specs] == [(9, 9 + k, 0.3) for k in range(VARIED)]
    assert "id" not in varied["items"][0]
