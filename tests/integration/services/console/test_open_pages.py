"""Pages that stay open: on a slow server, after the end of their session, and while a form is filled in."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from services.console.pages import events
from services.console.sign_in import SignInLinks
from services.console.viewer import Viewer
from tests.support.browser import scroll_to, served_console, sign_in, signed_in_tab
from tests.support.console import make_job
from tests.support.stack import Stack
from tests.support.tenants import make_tenant

pytestmark = pytest.mark.long

TENANT = "staying"
# Counts how often the page at this address is asked for, and how often at once. Each answer takes 1.5 s.
SLOWLY = """
    const asked = window.fetch;
    window.asked = window.now = window.most = 0;
    window.fetch = async (...given) => {
        window.asked += 1;
        window.now += 1;
        window.most = Math.max(window.most, window.now);
        await new Promise((resolve) => setTimeout(resolve, 1500));
        try { return await asked(...given); } finally { window.now -= 1; }
    };
"""
# A busy browser gathers what an observer has seen, and reports all of it later.
LATE = """
    window.IntersectionObserver = class extends IntersectionObserver {
        constructor(report, options) {
            let seen = [];
            super((entries) => {
                if (!seen.length) setTimeout(() => { const all = seen; seen = []; report(all, this); }, 400);
                seen.push(...entries);
            }, options);
        }
    };
"""
# The first answer never comes. Waiting for it ends after 1 s.
LOST = """
    const asked = window.fetch;
    let isFirst = true;
    AbortSignal.timeout = () => {
        const control = new AbortController();
        setTimeout(() => control.abort(), 1000);
        return control.signal;
    };
    window.fetch = (address, options) => {
        if (!isFirst || !String(address).includes("/jobs/")) return asked(address, options);
        isFirst = false;
        return new Promise((_, fail) => options.signal?.addEventListener("abort", () => fail(new Error("aborted"))));
    };
"""


@pytest.fixture(scope="module")
def console(stack: Stack) -> Iterator[tuple[str, SignInLinks]]:
    make_tenant(stack, TENANT)
    with served_console(stack) as opened:
        yield opened


@pytest.fixture
def page(browser: Any, console: Any) -> Iterator[Any]:
    with signed_in_tab(browser, console, Viewer("ada", TENANT)) as tab:
        yield tab


def settle(stack: Stack, job: Any, succeeded: int) -> None:
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE jobs SET succeeded = :n WHERE id = :id"), {"n": succeeded, "id": job})


def test_a_slow_server_is_asked_for_a_page_once_at_a_time(stack: Stack, page: Any) -> None:
    job = make_job(stack, 9, tenant=TENANT, pictures=1, state="running", succeeded=1, finished_at=None)
    page.add_init_script(SLOWLY)
    page.goto(f"/jobs?q={job}")
    for succeeded in range(2, 6):
        settle(stack, job, succeeded)
        page.wait_for_timeout(800)
    page.wait_for_selector("text=5 of 9")
    assert page.evaluate("window.most") == 1


@pytest.mark.parametrize("is_running", [True, False])
def test_an_open_page_says_that_its_session_has_ended_and_asks_no_more(
    stack: Stack, page: Any, is_running: bool
) -> None:
    ending: dict[str, Any] = {"state": "running", "succeeded": 1, "finished_at": None} if is_running else {}
    job = make_job(stack, 3_000, tenant=TENANT, pictures=1, **ending)
    page.goto(f"/jobs/{job}")
    page.wait_for_selector("#image-119", state="attached")
    page.context.clear_cookies()
    if is_running:
        settle(stack, job, 2)
    else:
        page.evaluate("setInterval(() => scrollTo(0, document.documentElement.scrollHeight), 200)")
    page.wait_for_selector("#notice:has-text('Your session has ended')")
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url))
    settle(stack, job, 3)
    page.wait_for_timeout(3_000)
    assert [one for one in asked if ".webp" not in one] == []


# Counts the streams of events, and keeps what the page tells its viewer.
STREAMS = """
    window.opened = 0;
    window.notices = [];
    window.EventSource = class extends EventSource { constructor(address) { super(address); window.opened += 1; } };
    addEventListener("DOMContentLoaded", () => {
        const notice = document.querySelector("#notice");
        new MutationObserver(() => window.notices.push(notice.textContent)).observe(notice, { childList: true });
    });
"""


def test_a_stream_of_events_goes_on_without_a_word_until_its_session_ends(
    stack: Stack, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LASTS_S", 1.0)
    job = make_job(stack, 9, tenant=TENANT, pictures=1, state="running", succeeded=1, finished_at=None)
    page.add_init_script(STREAMS)
    page.goto(f"/jobs/{job}")
    page.wait_for_function("() => window.opened >= 3")
    assert "".join(page.evaluate("window.notices")) == ""
    settle(stack, job, 2)
    page.wait_for_selector("#head >> text=2 of 9")
    page.context.clear_cookies()
    page.wait_for_selector("#notice:has-text('Your session has ended')")


def test_a_form_is_not_lost_with_its_session(page: Any, console: Any) -> None:
    page.goto("/submit?model=tiny@production")
    item = json.dumps({"class_label": 1, "id": "typed for an hour"})
    page.click("text=Items from JSON Lines or CSV")
    page.fill("textarea[name=file]", item)
    page.context.clear_cookies()
    page.click("text=Check >> nth=0")
    page.wait_for_selector("#notice:has-text('Sign in in another tab')")
    assert page.input_value("textarea[name=file]") == item
    sign_in(page.context.new_page(), console, Viewer("ada", TENANT))
    page.click("text=Check >> nth=0")
    page.wait_for_selector(".estimate:has-text('1 image')")


DROP = """([name, bytes]) => {
    const given = new DataTransfer();
    given.items.add(new File([new Uint8Array(bytes)], name));
    const area = document.querySelector("[data-drop]");
    area.dispatchEvent(new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true }));
}"""


def test_a_file_that_the_server_would_refuse_is_not_sent(page: Any) -> None:
    page.goto("/submit?model=tiny@production")
    page.click("text=Items from JSON Lines or CSV")
    page.fill("textarea[name=file]", "typed for an hour")
    page.evaluate(DROP, ["items.csv", list("caption\ncafé\n".encode("cp1252"))])
    page.wait_for_selector("#notice:has-text('not UTF-8')")
    assert page.input_value("textarea[name=file]") == "typed for an hour"
    page.evaluate(DROP, ["items.csv", list("caption\ncafé\n".encode())])
    page.wait_for_selector("#notice", state="hidden")
    assert page.input_value("textarea[name=file]") == "caption\ncafé\n"
    large = {"name": "items.jsonl", "mimeType": "text/plain", "buffer": b" " * 17_000_000}
    page.set_input_files("input[name=upload]", large)
    page.click("text=Check >> nth=0")
    page.wait_for_selector("#notice:has-text('larger than 16 MB')")
    assert page.input_value("textarea[name=file]") == "caption\ncafé\n"


def test_a_gallery_goes_on_where_the_browser_reports_late(stack: Stack, page: Any) -> None:
    job = make_job(stack, 3_000, tenant=TENANT, pictures=1)
    page.add_init_script(LATE)
    page.goto(f"/jobs/{job}")
    scroll_to(page, "#image-700")


def test_a_gallery_asks_again_for_a_page_that_never_came(stack: Stack, page: Any) -> None:
    job = make_job(stack, 3_000, tenant=TENANT, pictures=1)
    page.add_init_script(LOST)
    page.goto(f"/jobs/{job}")
    scroll_to(page, "#image-130")


def test_back_from_an_image_leads_to_its_place(stack: Stack, page: Any) -> None:
    job = make_job(stack, 3_000, tenant=TENANT, pictures=1)
    page.goto(f"/jobs/{job}")
    scroll_to(page, "#image-700")
    page.click("#image-700 a")
    page.wait_for_selector("h1:has-text('image 700')")
    page.go_back()
    page.wait_for_selector("#image-700")
    box = page.locator("#image-700").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < page.viewport_size["height"]
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.closest('li').id") == "image-701"


def test_long_names_fit_a_telephone(stack: Stack, page: Any, console: Any) -> None:
    name = "n" * 150
    job = make_job(stack, 2, tenant=TENANT, pictures=1, model=name, failures=[1])
    page.set_viewport_size({"width": 360, "height": 640})
    sign_in(page, console, Viewer(name, TENANT))
    for path in ("/jobs", f"/jobs/{job}", f"/jobs/{job}/images/0", f"/jobs/{job}/errors", f"/compare/jobs?a={job}"):
        page.goto(path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, (path, width)


def test_a_page_is_printed_without_its_controls(stack: Stack, page: Any) -> None:
    job = make_job(stack, 2, tenant=TENANT, pictures=1, failures=[1])
    page.emulate_media(media="print")
    page.goto(f"/jobs/{job}")
    page.wait_for_selector("h1")
    controls = "[...document.querySelectorAll('nav, form, button')]"
    assert page.evaluate(f"{controls}.filter(one => one.checkVisibility()).length") == 0
