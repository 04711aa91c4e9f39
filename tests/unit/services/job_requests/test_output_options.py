"""How images are stored: options that fit each other, and names that are allowed and differ."""

import time
from typing import Any

import pytest

from services.job_queue.plan import Plan
from services.job_requests.image_spec import image_spec
from services.job_requests.output_options import ImageNames
from services.job_requests.schema import Limits, plan_request
from services.job_requests.strict_json import RequestError

CONDITIONS = {
    "type": "object",
    "properties": {"class_label": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["class_label"],
}
ITEMS = [
    {"class_label": 3, "id": "a", "seed": 5, "metadata": {"sku": "A-1", "size": {"cm": 30}}},
    {"class_label": 4, "id": "b", "metadata": {"sku": "B=2", "size": {"cm": 40}}},
]


def planned(output: dict[str, Any], **request: Any) -> Plan:
    return plan_request({"items": ITEMS, "seed": 7, "output": output, **request}, CONDITIONS, Limits(["outputs/x"]))


def names(plan: Plan) -> list[str | None]:
    per_item = plan["images_per_item"]
    return [image_spec(plan, plan["items"][i // per_item], i).name for i in range(len(plan["items"]) * per_item)]


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{index}", ["00000000", "00000001", "00000002", "00000003"]),
        ("{id}-{k}", ["a-0", "a-1", "b-0", "b-1"]),
        ("{item}_{seed}", ["0_5", "0_6", "1_9", "1_10"]),
        ("{metadata.sku}.{metadata.size.cm}.{index}", [f"A-1.30.0000000{i}" for i in (0, 1)]
         + [f"B=2.40.0000000{i}" for i in (2, 3)]),
        ("{class_label}{index}", ["300000000", "300000001", "400000002", "400000003"]),
    ],
)  # fmt: skip
def test_names_are_made_of_fields(template: str, found: list[str]) -> None:
    assert names(planned({"name": template}, images_per_item=2)) == found


def test_whole_numbers_may_be_written_with_a_point() -> None:
    """JSON Schema takes 80.0 for an integer, and Pillow does not."""
    output = {"format": "jpeg", "quality": 80.0, "thumbnail": 32.0, "name": "{class_label}{index}"}
    plan = planned(output, items=[{"class_label": 3.0}])
    assert [type(plan["output"][name]) for name in ("quality", "thumbnail")] == [int, int]
    assert names(plan) == ["300000000"]


def test_without_a_template_an_image_has_no_name_of_its_own() -> None:
    plan = planned({"format": "webp", "quality": 40})
    assert (names(plan), plan["format"]) == ([None, None], "webp")


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"output": {"name": "{class_label}"}, "images_per_item": 2}, "output.name: '3' names two images; permitted: "),
        ({"output": {"name": "x"}}, "output.name: 'x' names two images"),
        ({"output": {"name": "{colour}"}}, "output.name: {colour} is not a field of this item; permitted: index, k"),
        ({"output": {"name": "{metadata}"}}, "output.name: {metadata} is not a field of this item"),
        ({"output": {"name": "{metadata.sku.x}"}}, "output.name: {metadata.sku.x} is not a field"),
        ({"output": {"name": "{}"}}, "output.name: {} is not a field"),
        ({"output": {"name": "../{index}"}}, "output.name: '../{index}' is not allowed; permitted: letters"),
        ({"output": {"name": "a/{index}"}}, "output.name: 'a/{index}' is not allowed"),
        ({"output": {"name": "{index"}}, "output.name: '{index' is not allowed"),
        ({"output": {"name": ".{index}"}}, "output.name: '.00000000' is not allowed; permitted: 1 to 200 characters"),
        ({"output": {"name": ""}}, "output.name: '' is not allowed; permitted: text of 1 to 200 characters"),
        ({"output": {"quality": 90}}, "output.quality: 90 is not allowed; permitted: with the format jpeg or webp"),
        ({"output": {"quality": 0}}, "output.quality: 0 is not allowed; permitted: an integer from 1 to 100"),
        ({"output": {"format": "jpeg"}, "format": "png"}, "output.format: given together with format"),
        ({"output": {"thumbnail": 5000}}, "output.thumbnail: 5000 is not allowed; permitted: an integer from 16 to"),
        ({"output": {"metadata": 1}}, "output.metadata: 1 is not allowed; permitted: true or false"),
        (
            {"output": {"archives": "tar"}},
            "output.archives: not a known field; permitted: archive, archive_mib, format",
        ),
        ({"output": {"archive": "zip"}}, "output.archive: 'zip' is not allowed; permitted: tar"),
        ({"output": {"archive_mib": 9}}, "output.archive_mib: 9 is not allowed; permitted: with an archive"),
        (
            {"output": {"archive": "tar", "archive_mib": 5000}},
            "output.archive_mib: 5000 is not allowed; permitted: an integer from 1 to 4096",
        ),
        ({"output": []}, "output: [] is not allowed; permitted: a JSON object"),
    ],
)
def test_what_is_not_permitted_is_named(request_: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RequestError) as error:
        plan_request({"items": ITEMS, **request_}, CONDITIONS, Limits(["outputs/x"]))
    assert str(error.value).startswith(complaint)


@pytest.mark.parametrize("value", ["../../etc", "a/b", "", "é", "a b", "x" * 201, ".hidden"])
def test_no_value_of_an_item_leads_out_of_the_folder(value: str) -> None:
    items = [{"class_label": 1, "metadata": {"sku": value}}]
    with pytest.raises(RequestError, match=r"output.name: '.*' is not allowed; permitted: 1 to 200 characters"):
        planned({"name": "{metadata.sku}"}, items=items)


def test_names_that_must_be_compared_are_limited_and_quick() -> None:
    plan = planned({"name": "{seed}"}, images_per_item=1_000)
    checked = ImageNames(plan, 50_000)
    began = time.process_time()
    for number in range(50):
        checked.check({"class_label": 1}, number)
    assert time.process_time() - began < 2
    with pytest.raises(
        RequestError, match=r"output.name: '\{seed\}' is not allowed for 101000 images; permitted: at most"
    ):
        planned({"name": "{seed}"}, items=[{"class_label": 1}] * 101, images_per_item=1_000)
    assert names(planned({"name": "{index}"}, items=[{"class_label": 1}] * 2, images_per_item=2))[3] == "00000003"


def test_a_value_that_looks_like_a_place_is_none() -> None:
    with pytest.raises(RequestError, match=r"output.name: .* is not allowed"):
        planned({"name": "{id}"}, items=[{"class_label": 1, "id": "{k}"}])
