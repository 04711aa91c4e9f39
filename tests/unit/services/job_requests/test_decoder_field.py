"""Which decoder a request may ask for, and which it gets."""

from pathlib import Path
from typing import Any

import pytest

from services.job_requests.again import request_again
from services.job_requests.image_spec import image_spec
from services.job_requests.schema import Limits, default_mistakes, plan_request, published_schema
from services.job_requests.strict_json import RequestError
from services.registry.releases import request_rules
from tests.support.releases import make_light_release
from training.model import release

LIMITS = Limits(("outputs/default",))
ITEMS = [{"class_label": 1}, {"class_label": 2, "decoder": "full"}, {"class_label": 3, "decoder": "light"}]


def rules_of(folder: Path) -> dict[str, Any]:
    return request_rules(release.read(folder).to_json())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The rules of a release whose light decoder is its default."""
    return rules_of(make_light_release(tmp_path_factory.mktemp("good") / "light"))


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return rules_of(make_light_release(tmp_path_factory.mktemp("poor") / "light", loss=0.5))


def decoders(request: dict[str, Any], rules: dict[str, Any]) -> list[str]:
    plan = plan_request(request, rules, LIMITS)
    return [image_spec(plan, item, index).decoder for index, item in enumerate(plan["items"])]


def test_a_request_that_says_nothing_gets_the_release_s_default(good: dict[str, Any], poor: dict[str, Any]) -> None:
    assert decoders({"items": ITEMS}, good) == ["light", "full", "light"]
    assert decoders({"items": ITEMS}, poor) == ["full", "full", "light"]
    assert decoders({"items": ITEMS, "decoder": "light"}, poor) == ["light", "full", "light"]
    assert decoders({"items": ITEMS[:1], "grid": {"decoder": ["light", "full"]}}, good) == ["light", "full"]
    assert published_schema(good)["properties"]["decoder"] == {"enum": ["full", "light"], "default": "light"}


def test_an_image_is_made_again_with_its_decoder(good: dict[str, Any]) -> None:
    plan = plan_request({"items": ITEMS}, good, LIMITS)
    assert request_again(plan, plan["items"][0], 0, 7)["decoder"] == "light"
    assert request_again(plan, plan["items"][1], 1, 8)["items"] == [{"class_label": 2, "decoder": "full", "seed": 8}]


def test_unknown_decoders_are_refused(good: dict[str, Any], tiny_release: Path) -> None:
    with pytest.raises(RequestError, match=r"^decoder: 'quick' is not allowed; permitted: full, light$"):
        plan_request({"items": ITEMS, "decoder": "quick"}, good, LIMITS)
    without = rules_of(tiny_release)
    lacks = r"'light' is not allowed; permitted: full; this release has no light decoder$"
    with pytest.raises(RequestError, match=f"^decoder: {lacks}"):
        plan_request({"items": ITEMS[:2], "decoder": "light"}, without, LIMITS)
    with pytest.raises(RequestError, match=rf"^items\[2\]\.decoder: {lacks}"):
        plan_request({"items": ITEMS}, without, LIMITS)
    assert decoders({"items": ITEMS[:2], "decoder": "full"}, without) == ["full", "full"]
    assert "decoder" not in plan_request({"items": ITEMS[:1]}, without, LIMITS)


def test_a_default_must_be_a_decoder_that_there_is(good: dict[str, Any], tiny_release: Path) -> None:
    assert default_mistakes({"decoder": "light"}, good) == []
    assert default_mistakes({"decoder": "quick"}, good) == ["decoder: 'quick' is not allowed; permitted: full, light"]
    assert default_mistakes({"decoder": "light"}, rules_of(tiny_release))
