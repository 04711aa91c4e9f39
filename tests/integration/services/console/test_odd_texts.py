"""Texts of users that turn the direction of writing, or have no place to break, leave the rest of a page as it is."""

from collections.abc import Iterator
from typing import Any

import pytest

from services.console.viewer import Viewer
from tests.support.browser import served_console, signed_in_tab
from tests.support.console import make_job
from tests.support.stack import Stack
from tests.support.tenants import make_tenant

TENANT = "odd-texts"
TURNS = "\u202eevil \u05d0"  # the mark that turns what follows; nothing ends it
# The texts, of characters that are written from left to right, whose first one is right of their last.
TURNED = """() => {
    const turned = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode());) {
        const text = node.data.trim();
        if (!/^[ -~·]{2,}$/.test(text) || !/^\\w/.test(text)) continue;
        const start = node.data.indexOf(text);
        const [first, last] = [start, start + text.length - 1].map((index) => {
            const range = document.createRange();
            range.setStart(node, index);
            range.setEnd(node, index + 1);
            return range.getBoundingClientRect();
        });
        if (first.width && first.top === last.top && first.left > last.left) turned.push(text);
    }
    return turned;
}"""


@pytest.fixture(scope="module")
def page(stack: Stack, browser: Any) -> Iterator[Any]:
    make_tenant(stack, TENANT)
    with served_console(stack) as console, signed_in_tab(browser, console, Viewer(TURNS, TENANT)) as tab:
        yield tab


def test_no_text_is_turned_by_the_name_beside_it(stack: Stack, page: Any) -> None:
    odd: dict[str, Any] = {"tenant": TENANT, "pictures": 1, "model": TURNS, "tags": [TURNS], "priority": 5}
    job = make_job(stack, 3, items=[{"caption": TURNS}], failures=[1], **odd)
    other = make_job(stack, 3, items=[{"caption": TURNS}], **odd)
    make_job(stack, 2, state="running", succeeded=0, finished_at=None, **odd)
    for path in ("/jobs", f"/jobs/{job}", f"/jobs/{job}/images/0", f"/jobs/{job}/errors", "/recall", "/service",
                 f"/compare/jobs?a={job}", f"/compare/jobs?a={job}&b={other}"):  # fmt: skip
        page.goto(path)
        assert page.evaluate("document.body.innerText.includes('evil')")
        assert (path, page.evaluate(TURNED)) == (path, [])


def test_a_word_without_an_end_fits_a_telephone(stack: Stack, page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    word = "t" * 100
    job = make_job(stack, 2, tenant=TENANT, pictures=1, items=[{"caption": word, word: word}], tags=[word], model=word)
    for path in ("/jobs", f"/jobs/{job}", f"/jobs/{job}/images/0", f"/jobs/{job}/errors", "/recall", "/many",
                 f"/compare/jobs?a={job}", f"/jobs?q={word}&tag={word}"):  # fmt: skip
        page.goto(path)
        cut = page.evaluate("""[...document.querySelectorAll(".tag")].filter((one) => {
            const [box, around] = [one, one.parentElement].map((each) => each.getBoundingClientRect());
            return box.right > Math.min(around.right + 1, document.documentElement.clientWidth);
        }).length""")
        assert (path, page.evaluate("document.documentElement.scrollWidth"), cut) == (path, 360, 0)
