"""Why images failed, and what people do to one job or to many."""

import uuid
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.console import make_job, open_console
from tests.support.console_releases import send_form
from tests.support.stack import Stack
from tests.support.tenants import make_tenant


def add_open_job(stack: Stack, tenant: str, model: str) -> uuid.UUID:
    """A job that no dispatcher of the tests plans, because it is due in a year."""
    request = {"items": [{"class_label": 1}]}
    return make_tenant(stack, tenant).submit(request, model=model, run_after="2100-01-01T00:00:00Z")


def column(stack: Stack, job: uuid.UUID, name: str) -> Any:
    with stack.engine("migrator").begin() as connection:
        return connection.execute(text(f"SELECT {name} FROM jobs WHERE id = :id"), {"id": job}).scalar_one()


def is_cancelled(stack: Stack, job: uuid.UUID) -> bool:
    with stack.engine("migrator").begin() as connection:
        query = "SELECT count(*) FROM cancel_requests WHERE job_id = :id"
        asked = connection.execute(text(query), {"id": job}).scalar_one()
    return bool(asked) or column(stack, job, "state") == "cancelled"


def test_errors_that_differ_in_numbers_and_values_alone_are_one_reason(stack: Stack) -> None:
    make_tenant(stack, "errors-own")
    job = make_job(stack, 12, tenant="errors-own", failures=range(9))
    with stack.engine("migrator").begin() as connection:
        for where, error in (
            ("< 6", "'class_label: ' || index || ' is not allowed'"),
            (">= 6", "'<b>''x''</b> is gone'"),
        ):
            statement = f"UPDATE outputs SET error = {error} WHERE job_id = :id AND error IS NOT NULL AND index {where}"
            connection.execute(text(statement), {"id": job})
    page = open_console(stack, "errors-own").get(f"/jobs/{job}/errors").text
    assert page.count('class="message"') == 2
    assert page.index("class_label: 0 is not allowed") < page.index("&lt;b&gt;")
    assert "6 images of" in page
    assert "3 images of" in page
    assert f'href="/jobs/{job}/images/8"' in page
    make_tenant(stack, "errors-other")
    assert open_console(stack, "errors-other").get(f"/jobs/{job}/errors").status_code == 404


def test_a_job_is_retried_from_its_page(stack: Stack) -> None:
    make_tenant(stack, "change-one")
    job = make_job(stack, 4, tenant="change-one", failures=[2], run_after="2100-01-01T00:00:00Z")
    console = open_console(stack, "change-one")
    assert send_form(console, f"/jobs/{job}", f"/jobs/{job}/retry").status_code == 200
    assert column(stack, job, "revision") == 2


def test_an_open_job_is_cancelled_and_its_priority_changes(stack: Stack) -> None:
    job = add_open_job(stack, "change-open", "tiny@production")
    console = open_console(stack, "change-open")
    assert send_form(console, f"/jobs/{job}", f"/jobs/{job}/priority", priority="7").status_code == 200
    with stack.engine("migrator").begin() as connection:
        query = text("SELECT changes FROM change_requests WHERE job_id = :id")
        asked = connection.execute(query, {"id": job}).scalar()
    assert asked == {"priority": 7} or column(stack, job, "priority") == 7
    refused = send_form(console, f"/jobs/{job}", f"/jobs/{job}/priority", priority="high")
    assert (refused.status_code, "permitted: an integer from -100 to 100" in refused.text) == (422, True)
    send_form(console, f"/jobs/{job}", f"/jobs/{job}/cancel")
    assert is_cancelled(stack, job)


def test_many_jobs_are_counted_then_cancelled_and_later_ones_left_alone(stack: Stack) -> None:
    jobs = [add_open_job(stack, "change-many", "many-model@1") for _ in range(3)]
    other = add_open_job(stack, "change-many", "other-model@1")
    theirs = add_open_job(stack, "change-theirs", "many-model@1")
    console = open_console(stack, "change-many")
    page = console.get("/many?model=many-model")
    assert "<strong>3</strong> jobs match" in page.text
    assert "Cancel 3 jobs" in page.text
    hidden = {name: page.text.split(f'name="{name}" value="')[1].split('"')[0] for name in ("csrf", "until", "model")}
    late = add_open_job(stack, "change-many", "many-model@1")
    done = console.post("/many", data={**hidden, "action": "cancel"})
    assert "3 jobs were asked to stop" in done.text
    assert [is_cancelled(stack, job) for job in (*jobs, other, theirs, late)] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("wrong", [{"action": "drop"}, {"action": "cancel", "state": "x"}, {"until": "yesterday"}])
def test_a_form_of_many_jobs_that_was_changed_is_refused(stack: Stack, wrong: dict[str, str]) -> None:
    make_tenant(stack, "change-wrong")
    console = open_console(stack, "change-wrong")
    answer = send_form(console, "/many", "/many", **{"action": "cancel", **wrong})
    assert (answer.status_code, "Reload the page" in answer.text) == (422, True)
