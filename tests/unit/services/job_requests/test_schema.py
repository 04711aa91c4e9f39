"""What a request may contain, and the messages for its author when it is invalid."""

import inspect
import json
import time
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from services.cli import evaluate
from services.dispatcher.sharding import cut_batches, request_items
from services.job_queue.plan import Plan
from services.job_requests import messages, schema
from services.job_requests.class_names import class_number
from services.job_requests.image_spec import ImageSpec, image_cost, image_spec
from services.job_requests.schema import MAX_SEED, Limits, plan_request
from services.job_requests.strict_json import RequestError
from services.registry.releases import request_rules
from training.evaluation import second_stage
from training.model.solvers import SOLVERS
from training.model.spacing import SPACINGS

CONDITIONS = {
    "type": "object",
    "properties": {"class_label": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["class_label"],
}
ITEM = {"class_label": 3}
LIMITS = Limits(["outputs/default"], ["inputs/default"], bucket="ours")


def spec_of(request: Plan, index: int) -> ImageSpec:
    return image_spec(request, request["items"][index // request["images_per_item"]], index)


def planned(**request: object) -> Plan:
    return plan_request({"items": [ITEM], **request}, CONDITIONS, LIMITS)


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        ({}, "items: missing; give items or input_uri"),
        ({"items": []}, "items: [] is not allowed; permitted: a list of 1 to 10000 items"),
        ({"items": [ITEM], "steps": 0}, "steps: 0 is not allowed; permitted: an integer from 1 to 1000"),
        ({"items": [ITEM], "steps": 1_000_000}, "steps: 1000000 is not allowed; permitted: an integer from 1 to 1000"),
        ({"items": [ITEM], "steps": True}, "steps: true is not allowed; permitted: an integer from 1 to 1000"),
        ({"items": [ITEM], "seed": None}, "seed: null is not allowed; permitted: an integer from 0 to"),
        ({"items": [ITEM], "steps": 1.5}, "steps: 1.5 is not allowed; permitted: an integer from 1 to 1000"),
        (
            {"items": [ITEM], "guidance_scale": -1},
            "guidance_scale: -1 is not allowed; permitted: a number from 0 to 50",
        ),
        ({"items": [ITEM], "seed": -1}, f"seed: -1 is not allowed; permitted: an integer from 0 to {MAX_SEED}"),
        (
            {"items": [ITEM], "solver": "magic"},
            "solver: 'magic' is not allowed; permitted: ddim, ddpm, deis, dpm2, dpm2_ancestral",
        ),
        (
            {"items": [ITEM], "guidance_interval": [0.9, 0.1]},
            "guidance_interval: [0.9, 0.1] is not allowed; permitted: the lower number first",
        ),
        (
            {"items": [ITEM], "guidance_interval": [0.5]},
            "guidance_interval: [0.5] is not allowed; permitted: a list of 2, each a number from 0 to 1",
        ),
        (
            {"items": [ITEM], "spacing": "odd"},
            "spacing: 'odd' is not allowed; permitted: ays, beta, exponential, karras",
        ),
        ({"items": [ITEM], "format": "gif"}, "format: 'gif' is not allowed; permitted: png, jpeg, webp"),
        ({"items": [ITEM], "images_per_item": 0}, "images_per_item: 0 is not allowed; permitted: an integer from 1 to"),
        (
            {"items": [ITEM], "stepz": 3},
            "stepz: not a known field; permitted: decoder, dry_run, eta, format, grid, ",
        ),
        ({"items": [{}]}, "items[0].class_label: missing; give an integer from 0 to 9"),
        (
            {"items": [ITEM, {"class_label": 10}]},
            "items[1].class_label: 10 is not allowed; permitted: an integer from 0",
        ),
        (
            {"items": [{"class_label": "3"}]},
            "items[0].class_label: '3' is not allowed; permitted: an integer from 0 to 9",
        ),
        ({"items": [3]}, "items[0]: 3 is not allowed; permitted: a JSON object"),
        (
            {"items": [{**ITEM, "prompt": "x"}]},
            "items[0].prompt: not a known field; permitted: class_label, decoder",
        ),
        ({"items": "all"}, "items: 'all' is not allowed; permitted: a list of 1 to 10000 items"),
        ({"items": [ITEM], "output_prefix": "../other"}, "output_prefix: '../other' is not allowed; permitted: under"),
        ({"items": [ITEM], "output_prefix": "outputs/other"}, "output_prefix: 'outputs/other' is not allowed"),
        ({"items": [ITEM], "output_prefix": "outputs/defaults"}, "output_prefix: 'outputs/defaults' is not allowed"),
        ({"items": [ITEM], "output_prefix": "outputs/default/../x"}, "output_prefix: 'outputs/default/../x' is not"),
        ({"items": [ITEM], "output_prefix": "/etc"}, "output_prefix: '/etc' is not allowed"),
        ({"items": [ITEM], "output_prefix": "outputs/default/x\n"}, "output_prefix: 'outputs/default/x\\n' is not"),
        ({"items": [{**ITEM, "id": "a"}, {**ITEM, "id": "a"}]}, "items: the id 'a' is given twice"),
        (
            {"items": [ITEM] * 1001, "images_per_item": 1000},
            "1001000 images are not allowed; permitted: at most 1000000",
        ),
        (
            {"items": [ITEM], "input_uri": "inputs/default/a"},
            "items: given together with input_uri; give only one of them",
        ),
        (
            {"input_uri": "inputs/other/a.jsonl"},
            "input_uri: 'inputs/other/a.jsonl' is not allowed; permitted: und",
        ),
        ({"input_uri": "inputs/default/../other/a"}, "input_uri: 'inputs/default/../other/a' is not allowed"),
        (
            {"input_uri": "s3://theirs/inputs/default/a"},
            "input_uri: the bucket 'theirs' is not allowed; permitted: our",
        ),
        ({"input_uri": "https://x/y"}, "input_uri: 'https://x/y' is not allowed; permitted: 1 to 1024 bytes of UTF-8"),
        ({"input_uri": "inputs/default//a"}, "input_uri: 'inputs/default//a' is not allowed; permitted: 1 to 1024"),
        ({"input_uri": "inputs/default/a\n"}, "input_uri: 'inputs/default/a\\n' is not allowed; permitted: 1 to 1024"),
        ({"input_uri": "inputs/default/" + "\u00e9" * 505}, "input_uri: 'inputs/defau...ééééééééééééé' is not allowed"),
        ({"input_uri": "inputs/default/" + "a" * 1100}, "input_uri: 'inputs/defau...aaaaaaaaaaaaa' is not allowed"),
        ({"input_uri": "inputs/other/"}, "input_uri: 'inputs/other/' is not allowed; permitted: under inputs/default"),
        ({"input_uri": "inputs/"}, "input_uri: 'inputs/' is not allowed; permitted: under inputs/default"),
        ({"input_uri": ""}, "input_uri: '' is not allowed; permitted: text of 1 to 1100 characters"),
    ],
)
def test_a_mistake_names_the_field_the_value_and_what_is_permitted(request_: dict, line: str) -> None:
    with pytest.raises(RequestError) as error:
        plan_request(request_, CONDITIONS, LIMITS)
    assert line in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_all_mistakes_are_reported_at_once_up_to_a_limit() -> None:
    with pytest.raises(RequestError) as error:
        plan_request({"items": [{"class_label": 99}] * 50, "steps": 0}, CONDITIONS, LIMITS)
    lines = str(error.value).splitlines()
    assert len(lines) == messages.MAX_MESSAGES + 1
    assert lines[-1] == "and 41 more mistakes"


def test_a_million_mistakes_are_not_all_looked_for() -> None:
    """A request of 4 MiB. Each mistake that is found takes a kilobyte and more."""
    tracemalloc.start()
    with pytest.raises(RequestError) as error:
        plan_request({"items": [{}] * 1_300_000}, CONDITIONS, LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(error.value).splitlines()[-1] == "and at least 990 more mistakes"
    assert peak < 50 * 2**20


def test_the_items_of_a_large_request_are_checked_in_a_time_that_grows_with_them() -> None:
    items = [{**ITEM, "id": f"{number:06}"} for number in range(10_000)]
    items[-1]["id"] = items[-2]["id"]
    begun = time.process_time()
    with pytest.raises(RequestError, match="the id '009998' is given twice"):
        plan_request({"items": items}, CONDITIONS, LIMITS)
    once = time.process_time() - begun
    few = items[-1000:]
    begun = time.process_time()
    with pytest.raises(RequestError, match="the id '009998' is given twice"):
        plan_request({"items": few}, CONDITIONS, LIMITS)
    assert once < 20 * (time.process_time() - begun)


def test_metadata_are_limited() -> None:
    with pytest.raises(RequestError) as error:
        plan_request({"items": [ITEM, {**ITEM, "metadata": {"x": "é" * 8_192}}]}, CONDITIONS, LIMITS)
    assert str(error.value) == "items[1].metadata: 16393 bytes of JSON are not allowed; permitted: at most 16384"


def test_a_huge_value_is_abbreviated() -> None:
    with pytest.raises(RequestError) as error:
        planned(solver="x" * 100_000)
    assert len(str(error.value)) < 300


def test_defaults_are_filled_in_and_a_missing_seed_is_drawn() -> None:
    first, second = planned(), planned()
    assert first["steps"] == 20
    assert first["output_prefix"] == "outputs/default"
    assert first["seed"] != second["seed"]


def test_a_planned_request_submitted_again_plans_the_same() -> None:
    first = planned()
    assert plan_request(first, CONDITIONS, LIMITS) == first


def test_seeds_are_the_items_plus_k_else_the_jobs_plus_index() -> None:
    request = plan_request(
        {"items": [ITEM, {"class_label": 4, "seed": 100}], "images_per_item": 3, "seed": 7}, CONDITIONS, LIMITS
    )
    assert [spec_of(request, i).seed for i in range(6)] == [7, 8, 9, 100, 101, 102]


def test_an_item_overrides_steps_and_guidance_and_a_whole_float_is_an_integer() -> None:
    request = plan_request({"items": [{"class_label": 4.0, "steps": 5.0, "guidance_scale": 1}]}, CONDITIONS, LIMITS)
    spec = spec_of(request, 0)
    assert (spec.steps, spec.guidance_scale) == (5, 1.0)
    assert isinstance(spec.steps, int)
    assert image_cost(spec) == 5


def test_a_whole_float_of_images_per_item_counts_images() -> None:
    plan = planned(images_per_item=2.0)
    assert isinstance(plan["images_per_item"], int)
    (batch,) = cut_batches(request_items(plan), plan["images_per_item"])
    assert len(batch.shards) == 1


def test_every_permitted_solver_and_spacing_exists() -> None:
    properties = schema.request_schema(CONDITIONS)["properties"]
    assert set(properties["solver"]["enum"]) == set(SOLVERS)
    assert set(properties["spacing"]["enum"]) == set(SPACINGS)


def test_releases_are_evaluated_as_they_are_served() -> None:
    served, evaluated = planned(), second_stage.Sampling()
    assert (served["solver"], served["steps"]) == (evaluated.solver, evaluated.steps)
    assert served["guidance_scale"] == second_stage.GUIDANCE
    of_command = inspect.signature(evaluate.evaluate).parameters
    assert {name: of_command[name].default for name in asdict(evaluated)} == asdict(evaluated)


def test_a_guidance_interval_costs_its_share() -> None:
    def cost(**fields: object) -> int:
        planned = plan_request({"items": [ITEM], "steps": 20, **fields}, CONDITIONS, LIMITS)
        return image_cost(spec_of(planned, 0))

    assert cost() == 40
    assert cost(guidance_interval=[0.25, 0.75]) == 30
    assert cost(guidance_scale=1) == 20
    assert cost(solver="heun", guidance_scale=1) == 39


def test_a_release_has_its_own_defaults_where_a_request_is_silent() -> None:
    rules = {**CONDITIONS, "defaults": {"steps": 4, "solver": "lcm", "guidance_scale": 2.5}}
    plan = plan_request({"items": [{**ITEM, "steps": 9}], "solver": "ddim"}, rules, LIMITS)
    assert (plan["steps"], plan["solver"], plan["guidance_scale"]) == (4, "ddim", 2.5)
    assert (plan["spacing"], plan["format"]) == ("trailing", "png")
    assert [spec_of(plan, 0).steps, spec_of(plan, 0).solver] == [9, "ddim"]
    shown = schema.published_schema(rules)["properties"]
    assert {name: shown[name]["default"] for name in ("steps", "solver", "guidance_scale", "spacing")} == {
        "steps": 4, "solver": "lcm", "guidance_scale": 2.5, "spacing": "trailing"
    }  # fmt: skip
    assert "default" not in shown["items"]["items"]["properties"]["steps"]
    assert schema.published_schema({**CONDITIONS, "guided": False})["properties"]["guidance_scale"]["default"] == 1


@pytest.mark.parametrize(
    ("fields", "mistake"),
    [
        ({"steps": 0}, "steps: 0 is not allowed; permitted: an integer from 1 to 1000"),
        ({"solver": "magic"}, "solver: 'magic' is not allowed; permitted: ddim, "),
        ({"guidance_scale": 2}, "guidance_scale: 2 is not allowed; permitted: 1; this release was trained without"),
        ({"size": [64, 64]}, "size: not a known field; permitted: guidance_interval, guidance_rescale, guidance_scale"),
        ({"format": "webp"}, "format: not a known field"),
    ],
)
def test_a_default_that_no_request_could_give_is_refused(fields: dict, mistake: str) -> None:
    (line,) = schema.default_mistakes(fields, {**CONDITIONS, "guided": False})
    assert line.startswith(mistake)
    assert schema.default_mistakes({"steps": 3, "spacing": "karras"}, CONDITIONS) == []


def test_a_release_trained_without_condition_dropout_cannot_be_guided() -> None:
    """Guidance by a null condition that was never trained turns images into noise."""
    rules = {**CONDITIONS, "guided": False}
    assert plan_request({"items": [ITEM]}, rules, LIMITS)["guidance_scale"] == 1.0
    unguided = {"items": [{**ITEM, "guidance_scale": 1}], "guidance_scale": 1.0}
    assert plan_request(unguided, rules, LIMITS)["guidance_scale"] == 1.0
    assert plan_request({"items": [ITEM]}, {**CONDITIONS, "guided": True}, LIMITS)["guidance_scale"] == 1.5
    for request_ in ({"items": [ITEM], "guidance_scale": 2.5}, {"items": [{**ITEM, "guidance_scale": 2.5}]}):
        with pytest.raises(RequestError) as error:
            plan_request(request_, rules, LIMITS)
        assert (
            "guidance_scale: 2.5 is not allowed; permitted: 1; "
            "this release was trained without condition dropout, so it cannot be guided"
        ) in str(error.value)


def test_a_class_is_given_by_number_or_name() -> None:
    number = {"type": "integer", "minimum": 0, "maximum": 2}
    rule = {"anyOf": [number, {"enum": ["boot", "sandal", "2"]}]}
    conditions = {**CONDITIONS, "properties": {"class_label": rule}}
    for value, expected in ((1, 1), ("boot", 0), ("2", 2)):
        plan = plan_request({"items": [{"class_label": value}]}, conditions, LIMITS)
        assert class_number(rule, plan["items"][0]["class_label"]) == expected
    with pytest.raises(RequestError) as caught:
        plan_request({"items": [{"class_label": "bot"}]}, conditions, LIMITS)
    assert str(caught.value) == (
        "items[0].class_label: 'bot' is not allowed; permitted: an integer from 0 to 2, or one of boot, sandal, 2"
    )
    many = {"anyOf": [number, {"enum": [f"c{n}" for n in range(1000)]}]}
    with pytest.raises(RequestError, match=r"c28, c29 and 970 more$"):
        plan_request({"items": [{"class_label": 9}]}, {**conditions, "properties": {"class_label": many}}, LIMITS)


def test_the_published_schema_is_json_and_accepts_what_planning_accepts(tiny_release: Path) -> None:
    rules = request_rules(json.loads((tiny_release / "release.json").read_text()))
    published = json.loads(json.dumps(schema.published_schema(rules)))
    Draft202012Validator.check_schema(published)
    validator = Draft202012Validator(published)
    assert validator.is_valid({"items": [ITEM], "steps": 3, "output": {"format": "webp", "quality": 5}})
    assert not validator.is_valid({"items": [{"class_label": 99}]})
    assert "imageRule" not in json.dumps(published)
