"""The form that submits jobs: made of a release's schema, it checks first and says what is wrong beside the fields."""

import json
import re
from typing import Any

import pytest
from sqlalchemy import text

from services.console.submission import find_control, read_table
from services.job_requests.strict_json import RequestError
from tests.support.console import open_console
from tests.support.console_releases import releases_called, send_form, submit_checked
from tests.support.stack import Stack
from tests.support.tenants import make_tenant

NAMED = {
    "type": "object",
    "properties": {
        "class_label": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 1}, {"enum": ["owl", "<fox>"]}]}
    },
    "required": ["class_label"],
    "additionalProperties": False,
    "guided": True,
}
FORM = "/submit?model=form-named@1"


def jobs_of(stack: Stack, model: str) -> list[Any]:
    with stack.engine("migrator").begin() as connection:
        query = text("SELECT tenant, request, idempotency_key FROM jobs WHERE model = :model ORDER BY id")
        return list(connection.execute(query, {"model": model}))


def test_classes_are_chosen_by_name_and_one_form_submits_one_job(stack: Stack) -> None:
    make_tenant(stack, "form-tenant")
    with releases_called(stack, "form-named", conditions=NAMED):
        console = open_console(stack, "form-tenant")
        assert 'value="owl"> owl' in (page := console.get(FORM).text)
        assert "&lt;fox&gt;" in page
        fields = {"chosen": ["owl", "<fox>"], "images_per_item": "3", "seed": "7", "steps": "10"}
        checked = send_form(console, FORM, "/submit", **fields)
        assert "<strong>6 images</strong> of 2 items" in checked.text
        assert jobs_of(stack, "form-named@1") == []
        pages = [submit_checked(console, checked, **fields).url.path for _ in range(2)]
        (job,) = jobs_of(stack, "form-named@1")
        assert pages[0] == pages[1]
        assert pages[0].startswith("/jobs/")
        items = [{"class_label": "owl"}, {"class_label": "<fox>"}]
        assert job.tenant == "form-tenant"
        assert job.request == {"items": items, "images_per_item": 3, "seed": 7, "steps": 10}


def test_what_is_submitted_is_what_was_checked(stack: Stack) -> None:
    make_tenant(stack, "form-tenant")
    with releases_called(stack, "form-shown", conditions=NAMED):
        console = open_console(stack, "form-tenant")
        checked = send_form(console, "/submit?model=form-shown@1", "/submit", chosen=["owl"])
        many = {"chosen": ["owl"], "images_per_item": "900"}  # typed afterwards; Enter presses the first button
        changed = submit_checked(console, checked, **many)
        assert "has changed since it was checked" in changed.text
        assert "<strong>900 images</strong>" in changed.text
        assert jobs_of(stack, "form-shown@1") == []
        assert submit_checked(console, changed, **many).url.path.startswith("/jobs/")
        assert len(jobs_of(stack, "form-shown@1")) == 1


def test_a_form_to_which_one_goes_back_submits_another_job_if_it_is_changed(stack: Stack) -> None:
    make_tenant(stack, "form-tenant")
    with releases_called(stack, "form-back", conditions=NAMED):
        console = open_console(stack, "form-tenant")
        first = send_form(console, "/submit?model=form-back@1", "/submit", chosen=["owl"], seed="1")
        submit_checked(console, first, chosen=["owl"], seed="1")
        second = submit_checked(console, first, chosen=["owl"], seed="2")
        submit_checked(console, second, chosen=["owl"], seed="2")
        submit_checked(console, first, chosen=["owl"], seed="1")
        assert [job.request["seed"] for job in jobs_of(stack, "form-back@1")] == [1, 2]


@pytest.mark.parametrize(
    "file", ["class_label,caption\nowl,caf\xe9\n".encode("cp1252"), "class_label\nowl\n".encode("utf-16")]
)
def test_a_file_that_is_not_utf_8_is_refused(stack: Stack, file: bytes) -> None:
    make_tenant(stack, "form-tenant")
    with releases_called(stack, "form-coded", conditions=NAMED):
        console = open_console(stack, "form-tenant")
        token = re.findall(r'name="csrf" value="([^"]+)"', console.get("/submit?model=form-coded@1").text)[0]
        fields = {"csrf": token, "model": "form-coded@1", "chosen": "owl"}
        answer = console.post("/submit", data=fields, files={"upload": ("items.csv", file)})
        (said,) = re.findall(r'id="error-items-1">([^<]*)<', answer.text)
        assert said.startswith("file: not UTF-8 from byte")


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"chosen": ["owl"], "steps": "0"}, "steps", "steps: 0 is not allowed; permitted: an integer from 1 to 1000"),
        ({"chosen": ["owl"], "seed": "abc"}, "seed", "seed: &#39;abc&#39; is not allowed"),
        ({"chosen": ["cat"]}, "items", "items[0].class_label: &#39;cat&#39; is not allowed"),
        ({}, "items", "choose at least one"),
        ({"file": "class_label\nowl\nemu\n"}, "items", "items[1].class_label: &#39;emu&#39; is not allowed"),
        ({"file": '{"class_label": 1}\n{"class'}, "items", "line 2: not JSON"),
    ],
)
def test_a_mistake_stands_beside_its_field_and_nothing_is_submitted(
    stack: Stack, fields: dict[str, Any], field: str, message: str
) -> None:
    make_tenant(stack, "form-tenant")
    with releases_called(stack, "form-wrong", conditions=NAMED):
        console = open_console(stack, "form-tenant")
        answer = send_form(console, "/submit?model=form-wrong@1", "/submit", **fields, submit="1")
        (said,) = re.findall(rf'id="error-{field}-1">([^<]*)<', answer.text)
        assert said.startswith(message)
        assert jobs_of(stack, "form-wrong@1") == []


def test_a_form_says_what_each_stage_of_a_chain_takes_and_what_is_wrong_with_it(stack: Stack) -> None:
    make_tenant(stack, "form-tenant")
    with releases_called(stack, "form-chain", conditions=NAMED):
        console, page = open_console(stack, "form-tenant"), "/submit?model=form-chain@1"
        stage = {"model": "form-chain@1", "strength": 0.5, "steps": 4, "guidance_scale": 1}
        fields = {"chosen": ["owl"], "images_per_item": "3", "steps": "5", "guidance_scale": "1"}
        checked = send_form(console, page, "/submit", **fields, more=json.dumps({"then": [stage]}))
        said = " ".join(checked.text.split())
        assert "21 network evaluations: 15 of form-chain@1, then 6 of form-chain@1." in said
        wrong = json.dumps({"then": [{**stage, "strength": 2}]})
        refused = send_form(console, page, "/submit", **fields, more=wrong, submit="1")
        assert 'id="error-more-1">then[0].strength: 2 is not allowed; permitted: a number from 0.01' in refused.text
        assert jobs_of(stack, "form-chain@1") == []


def test_a_form_without_items_submits_a_walk_or_a_grid(stack: Stack) -> None:
    make_tenant(stack, "form-tenant")
    with releases_called(stack, "form-walk", conditions=NAMED):
        console, page = open_console(stack, "form-tenant"), "/submit?model=form-walk@1"
        walk = {"interpolate": {"from": {"class_label": "owl"}, "to": {"class_label": "<fox>"}, "frames": 5}}
        for more, images in ((walk, 5), ({"grid": {"class_label": [0, 1], "steps": [1, 2, 3]}}, 6)):
            checked = send_form(console, page, "/submit", more=json.dumps(more))
            assert f"<strong>{images} images</strong>" in checked.text
        refused = send_form(console, page, "/submit", more=json.dumps({"grid": {"steps": [1]}}))
        assert 'id="error-items-1">items: missing' in refused.text
        refused = send_form(console, page, "/submit", chosen=["owl"], more='{"input_uri": "a"}')
        assert 'id="error-more-1">input_uri: is not allowed in this form; permitted: items' in refused.text


def test_a_release_with_a_light_decoder_has_a_field_for_it(stack: Stack) -> None:
    make_tenant(stack, "form-tenant")
    with releases_called(stack, "form-own", conditions=NAMED) as [own]:
        assert 'name="decoder"' not in open_console(stack, "form-tenant").get("/submit?model=form-own@1").text
    light = {**own.manifest["architecture"], "light_decoder": {}}
    with releases_called(stack, "form-light", conditions=NAMED, architecture=light):
        console = open_console(stack, "form-tenant")
        fields = {"chosen": ["owl"], "decoder": "light"}
        submit_checked(console, send_form(console, "/submit?model=form-light@1", "/submit", **fields), **fields)
        assert jobs_of(stack, "form-light@1")[0].request["decoder"] == "light"


def test_a_file_is_read_as_it_was_dropped(stack: Stack) -> None:
    make_tenant(stack, "form-tenant")
    with releases_called(stack, "form-file", conditions=NAMED):
        console = open_console(stack, "form-tenant")
        page = console.get("/submit?model=form-file@1").text
        token = re.findall(r'name="csrf" value="([^"]+)"', page)[0]
        file = {"upload": ("items.csv", "\ufeffclass_label,seed\nowl,5\n1,\n".encode())}
        answer = console.post("/submit", data={"csrf": token, "model": "form-file@1"}, files=file)
        assert "2 images" in answer.text
        assert "owl,5" in answer.text  # the text stays in the form


def test_a_release_that_is_not_permitted_has_no_form(stack: Stack) -> None:
    make_tenant(stack, "form-guest", permitted_releases=["other"])
    console = open_console(stack, "form-guest")
    assert console.get("/submit?model=tiny@production").status_code == 404
    assert "There is no release that your tenant may use" in console.get("/submit").text


def test_cells_of_a_table_are_numbers_where_the_schema_has_numbers() -> None:
    rules = {"properties": {"caption": {"type": "string"}}, "required": ["caption"]}
    table = 'caption,seed,metadata\n7,7,"{""a"": 1}"\n"two, lines",,\n'
    assert read_table(table, rules) == [{"caption": "7", "seed": 7, "metadata": {"a": 1}}, {"caption": "two, lines"}]
    with pytest.raises(RequestError, match="more cells than the first line has names"):
        read_table("caption\na,b\n", rules)


def test_only_one_simple_condition_has_a_control() -> None:
    image = {"type": "string", "contentEncoding": "base64"}
    assert find_control({"properties": {"mask": image}, "required": ["mask"]}) is None
    both = {"a": {"type": "string"}, "b": {"type": "string"}}
    assert find_control({"properties": both, "required": ["a", "b"]}) is None
    million = {"type": "integer", "minimum": 0, "maximum": 10**6}
    assert find_control({"properties": {"class_label": million}, "required": ["class_label"]}) is None
