"""Pages that change while somebody works with them: the focus, what is typed, ratings and images between others."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from services.console.viewer import Viewer
from tests.support.browser import scroll_to, served_console, signed_in_tab
from tests.support.console import make_job
from tests.support.stack import Stack
from tests.support.tenants import make_tenant

pytestmark = pytest.mark.long

TENANT = "racing"
# The first rating is sent a second later than it was asked for.
SLOW_FIRST = """
    const asked = window.fetch;
    let isFirst = true;
    window.fetch = async (address, options) => {
        if (options?.method === "POST" && isFirst) {
            isFirst = false;
            await new Promise((resolve) => setTimeout(resolve, 1000));
        }
        const answer = await asked(address, options);
        if (options?.method === "POST") document.body.dataset.rated = Number(document.body.dataset.rated ?? 0) + 1;
        return answer;
    };
"""


@pytest.fixture(scope="module")
def address(stack: Stack) -> Iterator[Any]:
    make_tenant(stack, TENANT)
    with served_console(stack) as opened:
        yield opened


@pytest.fixture
def page(browser: Any, address: Any) -> Iterator[Any]:
    with signed_in_tab(browser, address, Viewer("ada", TENANT)) as tab:
        yield tab


def running_job(stack: Stack, count: int = 9) -> uuid.UUID:
    return make_job(stack, count, tenant=TENANT, pictures=1, state="running", succeeded=1, finished_at=None)


def change(stack: Stack, job: uuid.UUID, **columns: Any) -> None:
    with stack.engine("migrator").begin() as connection:
        values = ", ".join(f"{name} = :{name}" for name in columns)
        connection.execute(text(f"UPDATE jobs SET {values} WHERE id = :id"), {**columns, "id": job})


def ratings_of(stack: Stack, job: uuid.UUID) -> dict[int, int]:
    with stack.engine("migrator").begin() as connection:
        rows = connection.execute(text("SELECT index, rating FROM ratings WHERE job_id = :id"), {"id": job})
        return {int(index): int(rating) for index, rating in rows}


def test_a_line_that_has_the_focus_goes_on_and_keeps_it(stack: Stack, page: Any) -> None:
    job = running_job(stack)
    page.goto(f"/jobs?q={job}")
    page.keyboard.press("j")
    for made in (2, 3):
        change(stack, job, succeeded=made)
        page.wait_for_selector(f"text={made} of 9")
        assert page.evaluate("document.activeElement.pathname") == f"/jobs/{job}"


def test_what_is_typed_stays_and_the_rest_follows_once_it_is_left(stack: Stack, page: Any) -> None:
    job = running_job(stack)
    page.goto(f"/jobs/{job}")
    page.fill("input[name=priority]", "77")
    change(stack, job, succeeded=2)
    page.wait_for_timeout(2_500)
    assert page.input_value("input[name=priority]") == "77"
    page.focus("input[name=start]")
    page.wait_for_selector("#head >> text=2 of 9")


def test_an_image_that_was_late_appears_between_the_others(stack: Stack, page: Any) -> None:
    job = running_job(stack, 400)
    statement = text("DELETE FROM outputs WHERE job_id = :job AND index IN (5, 7) RETURNING outputs.*")
    with stack.engine("migrator").begin() as connection:
        late = [dict(row._mapping) for row in connection.execute(statement, {"job": job})]
    page.goto(f"/jobs/{job}")
    scroll_to(page, "#image-130")  # of the second page
    page.evaluate("scrollTo(0, 0)")
    assert page.query_selector("#image-5") is None
    for made, row in enumerate(late, 2):
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        with stack.engine("migrator").begin() as connection:
            connection.execute(text(f"INSERT INTO outputs ({names}) VALUES ({marks})"), row)
        change(stack, job, succeeded=made)
        page.wait_for_selector(f"#image-{row['index']}")
    order = page.eval_on_selector_all(".grid li", "all => all.map(one => Number(one.id.split('-')[1]))")
    assert order == sorted(set(order))
    assert order[:10] == list(range(10))


def test_the_last_rating_of_an_image_is_the_one_that_stays(stack: Stack, page: Any) -> None:
    job = make_job(stack, 3, tenant=TENANT, pictures=1)
    page.add_init_script(SLOW_FIRST)
    page.goto(f"/jobs/{job}")
    page.focus("#image-0 a")
    page.keyboard.press("2")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("5")
    page.wait_for_selector("body[data-rated='2']")
    assert ratings_of(stack, job) == {0: 5}


def test_a_key_that_is_held_rates_one_image(stack: Stack, page: Any) -> None:
    job = make_job(stack, 9, tenant=TENANT, pictures=1)
    page.goto(f"/jobs/{job}")
    page.focus("#image-0 a")
    for _ in range(4):
        page.keyboard.down("3")  # again without having been released: the browser marks it as repeated
    page.keyboard.up("3")
    page.focus("#image-5 a")
    page.keyboard.press("4")
    page.goto(f"/jobs/{job}/images/7")
    page.keyboard.down("2")
    page.wait_for_url(f"**/jobs/{job}/images/8")
    page.keyboard.down("2")
    page.keyboard.up("2")
    page.goto(f"/jobs/{job}?rating=1")
    assert ratings_of(stack, job) == {0: 3, 5: 4, 7: 2}


def test_news_does_not_take_away_what_the_page_says_of_a_rating(stack: Stack, page: Any) -> None:
    job = running_job(stack)
    page.goto(f"/jobs/{job}")
    page.route("**/rating", lambda route: route.abort())
    page.focus("#image-0 a")
    page.keyboard.press("5")
    page.wait_for_selector("#notice:has-text('does not answer')")
    change(stack, job, succeeded=2)
    page.wait_for_selector("#head >> text=2 of 9")
    assert "does not answer" in page.inner_text("#notice")
