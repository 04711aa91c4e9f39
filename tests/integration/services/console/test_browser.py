"""Pages in a real browser: by mouse and scrolling, by keyboard alone, without JavaScript, live, and after an outage."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from services.console.sign_in import SignInLinks
from services.console.viewer import Viewer
from tests.integration.services.console.test_outages import no_postgres
from tests.support.browser import served_console, signed_in_tab
from tests.support.console import make_job
from tests.support.stack import Stack
from tests.support.tenants import make_tenant

TENANT = "browsing"


@pytest.fixture(scope="module")
def console(stack: Stack) -> Iterator[tuple[str, SignInLinks]]:
    make_tenant(stack, TENANT)
    with served_console(stack) as opened:
        yield opened


@pytest.fixture
def page(browser: Any, console: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    with signed_in_tab(browser, console, Viewer("ada", TENANT), **getattr(request, "param", {})) as tab:
        yield tab


def test_a_gallery_scrolls_through_a_large_job(stack: Stack, page: Any) -> None:
    job = make_job(stack, 3_000, tenant=TENANT, pictures=4)
    page.goto("/jobs")
    page.click(f'a[href="/jobs/{job}"]')
    page.wait_for_selector("#image-0 img")
    for last in (119, 239, 359, 479, 599, 719, 839, 959):
        page.wait_for_selector(f"#image-{last}", state="attached")
        page.evaluate("document.querySelector('.gallery').scrollIntoView({block: 'end'})")
    page.wait_for_function("document.getElementById('image-0') === null")  # memory is bounded
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_selector("#image-0 img")
    page.wait_for_function("document.querySelector('#image-0 img').naturalWidth > 0")


def test_images_are_seen_by_keyboard_alone(stack: Stack, page: Any) -> None:
    job = make_job(stack, 5, tenant=TENANT, pictures=5)
    page.goto("/jobs?q=" + str(job))
    for key in ("j", "Enter"):
        page.keyboard.press(key)
    page.wait_for_url(f"**/jobs/{job}")
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.wait_for_url(f"**/jobs/{job}/images/1")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**/jobs/{job}/images/2")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**/jobs/{job}/images/1")
    page.keyboard.press("Escape")
    page.wait_for_url(f"**/jobs/{job}?after=0")
    page.goto("/jobs")
    page.keyboard.press("/")
    page.keyboard.type("nothing")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=nothing**")
    page.wait_for_selector("text=No job matches")


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_pages_work_without_javascript(stack: Stack, page: Any) -> None:
    job = make_job(stack, 130, tenant=TENANT, pictures=2)
    page.goto(f"/jobs/{job}")
    page.click("text=Later images")
    page.wait_for_selector("#image-129")
    page.click("#image-125 a")
    page.wait_for_selector("h1:has-text('image 125')")
    page.click("a[rel=next]")
    page.wait_for_selector("h1:has-text('image 126')")
    page.click("text=Sign out")
    page.wait_for_selector("text=You are not signed in")


def test_numbers_and_images_appear_as_they_are_made(stack: Stack, page: Any) -> None:
    job = make_job(stack, 6, tenant=TENANT, pictures=6, state="running", succeeded=2, finished_at=None)
    statement = text("DELETE FROM outputs WHERE job_id = :job AND index >= 2 RETURNING outputs.*")
    with stack.engine("migrator").begin() as connection:
        later = [dict(row._mapping) for row in connection.execute(statement, {"job": job})]
    page.goto(f"/jobs/{job}")
    page.wait_for_selector("#image-1")
    assert page.query_selector("#image-2") is None
    page.evaluate("window.isTheSamePage = true")
    for number, row in enumerate(later, 3):
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        with stack.engine("migrator").begin() as connection:
            connection.execute(text(f"INSERT INTO outputs ({names}) VALUES ({marks})"), row)
            connection.execute(text("UPDATE jobs SET succeeded = :n WHERE id = :id"), {"n": number, "id": job})
        page.wait_for_selector(f"#image-{number - 1}")
        page.wait_for_selector(f"#head >> text={number} of 6")
    order = page.eval_on_selector_all(".grid li", "all => all.map(one => one.id)")
    assert order == [f"image-{index}" for index in range(6)]
    assert page.evaluate("window.isTheSamePage")


COUNTING = """
    window.told = window.loads = 0;
    window.EventSource = class extends EventSource {
        constructor(address) {
            super(address);
            window.last = this;
            this.addEventListener("job", () => { window.told += 1; });
        }
    };
    const later = window.setTimeout;
    window.setTimeout = (call, wait) => { window.loads += wait === 700; return later(call, wait); };  // of live.js
"""


def test_a_page_that_shows_the_present_state_is_not_loaded_again(stack: Stack, page: Any) -> None:
    job = make_job(stack, 6, tenant=TENANT, pictures=6, state="running", succeeded=2, finished_at=None)
    page.add_init_script(COUNTING)
    for number, path in enumerate((f"/jobs/{job}", f"/jobs?q={job}"), 3):
        page.goto(path)
        page.wait_for_function("() => window.told === 1")
        assert page.evaluate("() => window.loads") == 0
        with stack.engine("migrator").begin() as connection:
            connection.execute(text("UPDATE jobs SET succeeded = :n WHERE id = :id"), {"n": number, "id": job})
        page.wait_for_function("() => window.loads === 1")


SEEN = """seen => {
    Object.defineProperty(document, "visibilityState", { value: seen ? "visible" : "hidden", configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_tab_that_is_not_seen_holds_no_connection_and_catches_up(stack: Stack, page: Any) -> None:
    job = make_job(stack, 6, tenant=TENANT, pictures=6, state="running", succeeded=2, finished_at=None)
    page.add_init_script(COUNTING)
    page.goto(f"/jobs/{job}")
    page.wait_for_function("() => window.told === 1")
    page.evaluate(SEEN, False)
    assert page.evaluate("() => window.last.readyState") == 2
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE jobs SET succeeded = 4 WHERE id = :id"), {"id": job})
    page.evaluate(SEEN, True)
    page.wait_for_selector("#head >> text=4 of 6")


def test_an_image_is_found_and_made_again_by_keyboard(stack: Stack, page: Any) -> None:
    items = [{"class_label": 1, "caption": "a heron at dawn"}, {"class_label": 1, "caption": "a fox"}]
    job = make_job(stack, 4, tenant=TENANT, pictures=4, items=items)
    page.goto("/recall")
    page.keyboard.press("/")
    page.keyboard.type("dawn heron")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#found-{job}-0")
    assert page.query_selector(f"#found-{job}-2") is None
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/jobs/{job}/images/0")
    page.keyboard.press("v")
    page.wait_for_url("**varied=true")
    assert json.loads(page.input_value("textarea[name=file]")) == {**items[0], "seed": 7}
    assert json.loads(page.input_value("textarea[name=more]")) == {"variations": 0.3}
    page.goto(f"/jobs/{job}")
    page.keyboard.press("/")
    page.keyboard.type("fox")
    page.keyboard.press("Enter")
    page.wait_for_selector("#image-2")
    assert page.query_selector("#image-1") is None


def test_keys_that_are_characters_can_be_turned_off(stack: Stack, page: Any) -> None:
    page.goto("/recall")
    page.click("text=Keys")
    page.uncheck("text=Letters and numbers are keys")
    page.goto("/jobs")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") is None
    page.click("text=Keys")
    page.check("text=Letters and numbers are keys")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"


def test_a_page_comes_back_after_an_outage(stack: Stack, page: Any) -> None:
    with no_postgres(stack):
        page.goto("/jobs")
        page.wait_for_selector("text=Postgres does not answer")
    page.wait_for_selector("h1:has-text('Jobs')")


def test_a_hostile_caption_stays_text(stack: Stack, page: Any) -> None:
    evil = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>\u202e\u05d0"
    job = make_job(stack, 1, tenant=TENANT, items=[{"caption": evil, evil: evil}], model=evil)
    for path in ("/jobs", f"/jobs/{job}", f"/jobs/{job}/images/0"):
        page.goto(path)
        page.wait_for_load_state("load")
        assert page.title() != "owned"
        assert page.query_selector("img[src=x]") is None


@pytest.mark.parametrize("page", [{"viewport": {"width": 360, "height": 640}, "color_scheme": "dark"}], indirect=True)
def test_pages_fit_a_telephone(stack: Stack, page: Any) -> None:
    job = make_job(stack, 9, tenant=TENANT, items=[{"caption": "long " * 400}], reason="word " * 100)
    for path in ("/jobs", f"/jobs/{job}", f"/jobs/{job}/images/0", "/recall", f"/submit?job={job}", "/nowhere",
                 f"/compare/jobs?a={job}", "/service"):  # fmt: skip
        page.goto(path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, (path, width)


@pytest.mark.parametrize("page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True)
def test_text_has_the_contrast_that_wcag_asks_for(stack: Stack, page: Any) -> None:
    """Level AA: 4.5 to 1 for text of this size."""
    make_job(stack, 2, tenant=TENANT, failures=[1], reason="a reason")
    page.goto("/jobs")
    pairs = page.evaluate("""() =>
      [...document.querySelectorAll("h1, .state, .count, .bad, time, .why, code, nav a")].map(one => {
        let ground = one;
        while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
        return [getComputedStyle(one).color, getComputedStyle(ground).backgroundColor];
    })""")
    assert len(pairs) > 5
    for pair in {tuple(pair) for pair in pairs}:
        low, high = sorted(map(luminance, pair))
        assert (high + 0.05) / (low + 0.05) >= 4.5, pair


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2.2 of a colour rgb(r, g, b)."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
