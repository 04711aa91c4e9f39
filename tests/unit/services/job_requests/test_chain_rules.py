"""Chains: what a stage may ask, whether it fits the stage before it, and what it makes of an image."""

from typing import Any

import pytest

from services.job_queue.plan import Plan
from services.job_requests.again import request_again
from services.job_requests.canvas import CANVAS, Canvas
from services.job_requests.chain_rules import ChainCheck, ChainRelease, plan_entries
from services.job_requests.chains import Stage, costs_of
from services.job_requests.image_rules import IMAGE_RULE, ImageRule
from services.job_requests.schema import MAX_SEED, Limits, plan_request
from services.job_requests.strict_json import RequestError

CLASS = {"class_label": {"type": "integer", "minimum": 0, "maximum": 9}}
WORDS = {"caption": {"type": "string", "minLength": 1, "maxLength": 9}}
FILE = {"type": "string", "contentEncoding": "base64"}
SMALL = {"low_resolution": {**FILE, IMAGE_RULE: ImageRule(channels=1)}}
MAP = {"semantic_map": {**FILE, IMAGE_RULE: ImageRule("labels", size=(8, 8), classes=4)}}
LIMITS = Limits(["outputs/default"], ["inputs/default"], bucket="ours")


def release(model: str, side: int, conditions: dict[str, Any], channels: int = 1) -> ChainRelease:
    rules = {"type": "object", "properties": conditions, "required": list(conditions)}
    return ChainRelease(model, {**rules, "guided": True, CANVAS: Canvas(channels, side, side, unit=8, factor=4)})


BASE = release("base@1", 8, CLASS)
RELEASES = {
    "up": release("up@2", 32, SMALL),
    "up-words": release("up-words@1", 32, {**SMALL, **WORDS}),
    "colour": release("colour@1", 32, {"low_resolution": {**FILE, IMAGE_RULE: ImageRule(channels=3)}}),
    "map": release("map@1", 32, MAP),
    "finish": release("finish@3", 32, CLASS),
}
FINISH = {"model": "finish", "strength": 0.5}


def plan_chain(*then: dict[str, Any], **request: Any) -> Plan:
    """Plan a chain as a dispatcher does."""
    plan = plan_request({"items": [{"class_label": 3}], "seed": 5, **request, "then": list(then)}, BASE.rules, LIMITS)
    releases = [BASE, *(RELEASES[entry["model"]] for entry in plan["then"])]
    plan["then"] = plan_entries(plan, releases)
    ChainCheck(plan, releases).check_items()
    return plan


@pytest.mark.parametrize(
    ("then", "request_", "line"),
    [
        ([], {}, "then: [] is not allowed; permitted: a list of 1 to 4 items"),
        ([{"model": "up"}] * 5, {}, "is not allowed; permitted: a list of 1 to 4 items"),
        ([{"steps": 3}], {}, "then[0].model: missing; give text of 1 to 200 characters"),
        ([{"model": "up", "steps": 0}], {}, "then[0].steps: 0 is not allowed; permitted: an integer from 1 to 1000"),
        (
            [{"model": "up", "seed": 4}],
            {},
            "then[0].seed: 4 is not allowed; permitted: nothing; the noise of each stage follows from the seed of the",
        ),
        ([{"model": "up", "low_resolution": "A"}], {}, "permitted: nothing; the stage takes the images of the stage"),
        ([{"model": "up", "strength": 0.5}], {}, "then[0].strength: 0.5 is not allowed; permitted: nothing; this"),
        ([{"model": "up"}, {"model": "finish"}], {}, "then[1].strength: missing; give a number from 0.01 to 1"),
        ([{"model": "up-words"}], {}, "then[0].caption: missing; give text of 1 to 9 characters"),
        ([{"model": "up-words", "caption": ""}], {}, "then[0].caption: '' is not allowed"),
        (
            [{"model": "up", "format": "png"}],
            {},
            "then[0].format: not a known field; permitted: decoder, eta, guidance_interval, guidance_rescale, "
            "guidance_scale, keep, model, size, solver, spacing, steps",
        ),
        ([{"model": "up", "eta": 1}], {}, "then[0].eta: 1 is not allowed; permitted: 0 with the solver"),
        (
            [{"model": "colour"}],
            {},
            "then[0].model: 'colour@1' is not allowed after 'base@1', whose images have 1 channels; permitted: a "
            "release whose low_resolution has as many, and not 3",
        ),
        ([{"model": "map"}], {}, "then[0].model: 'map@1' is not allowed, since it needs semantic_map; permitted: a"),
        (
            [{"model": "up"}],
            {"size": [16, 16]},
            "then[0].low_resolution: images of 16 x 16 pixels are not allowed; permitted: 8 x 8, of which up@2 makes "
            "32 x 32",
        ),
        (
            [{"model": "up"}],
            {"items": [{"class_label": 3}, {"class_label": 3, "size": [16, 16]}]},
            "items[1].then[0].low_resolution: images of 16 x 16 pixels",
        ),
        ([{"model": "up"}, {"model": "up"}], {}, "then[1].low_resolution: images of 32 x 32 pixels are not allowed"),
        ([{**FINISH, "size": [32, 64]}], {}, "then[0].image: 8 pixels wide and 8 high is not allowed"),
    ],
)
def test_a_chain_that_does_not_fit_is_refused(then: list[Any], request_: dict[str, Any], line: str) -> None:
    with pytest.raises(RequestError) as caught:
        plan_chain(*then, **request_)
    assert line in str(caught.value)


def test_an_item_has_the_conditions_that_stages_take_from_it() -> None:
    plan = plan_chain({"model": "up"}, FINISH)
    releases = [BASE, RELEASES["up"], RELEASES["finish"]]
    with pytest.raises(RequestError, match=r"^class_label: missing; give an integer from 0 to 9, for then\[1\]$"):
        ChainCheck(plan, releases)({})
    given = plan_chain({"model": "up", "size": [64, 64]}, {**FINISH, "class_label": 8}, size=[16, 16])
    ChainCheck(given, releases)({"size": [16, 16]})
    fields = Stage(given, 2, {}).fields({"class_label": 3, "size": [16, 16], "negative": {}, "seed": 1, "id": "a"})
    assert fields["class_label"] == 8
    assert not {"size", "negative", "seed", "id"} & fields.keys()


def test_the_conditions_of_a_walk_go_through_all_stages() -> None:
    """Every frame of a walk from one class to another became the first class in the second stage."""
    frame = {"class_label": 3, "toward": {"class_label": 8, "seed": 2, "share": 0.5}}
    plan = plan_chain({"model": "up"}, FINISH, {**FINISH, "class_label": 4})
    stages = [Stage(plan, number, {}).fields(frame) for number in (2, 3)]
    assert stages[0]["toward"] == {"class_label": 8, "share": 0.5}
    assert "toward" not in stages[1]
    check = ChainCheck(plan, [BASE, RELEASES["up"], RELEASES["finish"], RELEASES["finish"]])
    check(frame)
    with pytest.raises(RequestError, match=r"^toward.class_label: 12 is not allowed; .*, for then\[1\]$"):
        check({"class_label": 3, "toward": {"class_label": 12, "share": 1}})


def test_each_stage_has_noise_of_its_own_and_an_image_keeps_its_seed_and_name() -> None:
    then = [{"model": "up", "steps": 3}, FINISH, FINISH]
    plan = plan_chain(*then, steps=9, images_per_item=2, output={"name": "{class_label}-{k}"})
    specs = [Stage(plan, number, {}).spec(plan["items"][0], 1) for number in range(4)]
    assert [spec.steps for spec in specs] == [9, 3, 20, 20]
    assert {spec.seed for spec in specs} == {6}
    assert {spec.name for spec in specs} == {"3-1"}
    noises = [spec.noise_seed for spec in specs]
    assert len(set(noises)) == 4
    assert max(noises) < MAX_SEED
    assert [Stage(plan, number, {}).is_last for number in range(4)] == [False, False, False, True]
    assert costs_of(plan) == [6, 20, 20]  # 3 steps, and half of 20, guided

    again = request_again(plan, plan["items"][0], 1, 6)
    assert again["then"][0] == {**again["then"][0], "model": "up@2", "keep": False, "steps": 3}
    again["then"] = [{**entry, "model": entry["model"].split("@")[0]} for entry in again["then"]]
    assert plan_chain(*again.pop("then"), **again)["then"] == plan["then"]
