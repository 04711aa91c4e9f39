"""The dispatcher rejects a job that cannot be made, with the reason."""

import pytest

from tests.support.stack import Process, Stack


@pytest.mark.parametrize(
    ("model", "request_", "reason"),
    [
        ("nobody", {"items": [{"class_label": 1}]}, "model: no release is called 'nobody'; there are: "),
        ("tiny@staging", {"items": [{"class_label": 1}]}, "'tiny' has no alias 'staging'; there are: "),
        ("tiny@99", {"items": [{"class_label": 1}]}, "'tiny' has no version 99; there are: 1"),
        ("Tiny!", {"items": [{"class_label": 1}]}, "'Tiny!' is not allowed; permitted: name, name@alias or"),
        (
            "tiny",
            {"items": [{"class_label": 10}]},
            "items[0].class_label: 10 is not allowed; permitted: an integer from 0",
        ),
        ("tiny", {"items": [{"class_label": 1}], "steps": 0}, "steps: 0 is not allowed; permitted: an integer from 1"),
        ("tiny", {"items": [{"class_label": 1}], "steps": 10**6}, "steps: 1000000 is not allowed"),
        ("tiny", {"items": [{"class_label": 1}], "guidance_scale": -2}, "guidance_scale: -2 is not allowed"),
        ("tiny", {"items": []}, "items: [] is not allowed; permitted: a list of 1 to 10000"),
        ("tiny", {}, "items: missing"),
    ],
)
def test_an_invalid_request_is_rejected_with_a_reason(
    stack: Stack, dispatcher: Process, model: str, request_: dict, reason: str
) -> None:
    row = stack.wait(stack.submit(request_, model=model), timeout=60)
    assert row.state == "rejected"
    assert reason in row.reason
    assert row.finished_at is not None


def test_a_tenant_may_use_only_its_permitted_releases(stack: Stack, dispatcher: Process) -> None:
    def permit(names: str) -> None:
        with stack.engine("migrator").begin() as connection:
            connection.exec_driver_sql(f"UPDATE tenants SET permitted_releases = '{names}' WHERE name = 'default'")

    permit("{another}")
    try:
        row = stack.wait(stack.submit({"items": [{"class_label": 1}]}), timeout=60)
    finally:
        permit("{*}")
    assert row.state == "rejected"
    assert "model: 'tiny' is not permitted to you; permitted: another" in row.reason
