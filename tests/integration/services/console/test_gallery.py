"""The list of jobs, and the gallery of one job, as pages without JavaScript."""

import io
import re
import uuid

import pytest
from PIL import Image
from sqlalchemy import event, text

from services.console.thumbnails import Thumbnails, shrink
from services.job_queue.outputs import Output
from tests.support.console import make_job, open_console, picture
from tests.support.images import decompression_bomb
from tests.support.stack import Stack
from tests.support.tenants import make_tenant


def indices(page: str) -> list[int]:
    return [int(index) for index in re.findall(r'<li id="image-(\d+)"', page)]


def link(page: str, rel: str) -> str | None:
    found = re.search(rf'<a rel="{rel}" href="([^"]+)"', page)
    return found[1].replace("&amp;", "&") if found else None


def test_jobs_are_paged_in_both_directions(stack: Stack) -> None:
    make_tenant(stack, "paging")
    jobs = [str(make_job(stack, 1, tenant="paging", pictures=1)) for _ in range(45)][::-1]
    console = open_console(stack, "paging")
    first = console.get("/jobs").text
    assert re.findall(r'class="line" href="/jobs/([^"]+)"', first) == jobs[:40]
    assert link(first, "prev") is None
    second = console.get(link(first, "next") or "").text
    assert re.findall(r'class="line" href="/jobs/([^"]+)"', second) == jobs[40:]
    assert link(second, "next") is None
    back = console.get(link(second, "prev") or "").text
    assert re.findall(r'class="line" href="/jobs/([^"]+)"', back) == jobs[:40]


def test_jobs_are_found_by_words_and_state(stack: Stack) -> None:
    make_tenant(stack, "seeking")
    plain = make_job(stack, 1, tenant="seeking", pictures=1)
    special = make_job(stack, 2, tenant="seeking", failures=[1], idempotency_key="100%_odd")
    console = open_console(stack, "seeking")
    for query, expected in (
        ({"q": "100%_o"}, [special]), ({"q": "0%o"}, []), ({"q": str(plain)}, [plain]),
        ({"q": "tiny"}, [special, plain]),
        ({"state": "partial"}, [special]), ({"state": ["partial", "succeeded"]}, [special, plain]),
        ({"state": "running"}, []),
    ):  # fmt: skip
        page = console.get("/jobs", params=query).text
        assert re.findall(r'class="line" href="/jobs/([^"]+)"', page) == list(map(str, expected)), query
    answer = console.get("/jobs", params={"state": "flying"})
    assert (answer.status_code, "state[0]: " in answer.text, "flying" in answer.text) == (422, True, True)


def test_a_gallery_is_paged_by_index(stack: Stack) -> None:
    job = make_job(stack, 300, items=[{"class_label": n} for n in range(3)], failures=[5])
    console = open_console(stack)
    first = console.get(f"/jobs/{job}").text
    assert indices(first) == list(range(120))
    second = console.get(link(first, "next") or "").text
    assert indices(second) == list(range(120, 240))
    assert indices(console.get(link(second, "prev") or "").text) == list(range(120))
    assert indices(console.get(f"/jobs/{job}?failed=true").text) == [5]
    assert indices(console.get(f"/jobs/{job}?item=2").text) == list(range(200, 300))
    assert indices(console.get(f"/jobs/{job}?seed=19").text) == [12]
    assert indices(console.get(f"/jobs/{job}?after=298&failed=&item=&seed=").text) == [299]
    assert indices(console.get(f"/jobs/{job}?start=298&failed=&item=&seed=").text) == [298, 299]
    assert 'name="start"' in console.get(f"/jobs/{job}").text  # "From image" is that image, too
    assert "class_label: cannot be used" in first


def test_an_image_shows_what_made_it(stack: Stack) -> None:
    caption = "a lighthouse " * 150 + "at dusk"
    job = make_job(stack, 4, items=[{"class_label": 3, "id": "a-4711", "caption": caption}])
    page = open_console(stack).get(f"/jobs/{job}/images/2").text
    assert f'<dd dir="auto">{caption}</dd>' in page
    for words in ("a-4711", "class_label", "dpm_solver_2m", "<code>9</code>", f"/jobs/{job}/images/1", "images/3"):
        assert words in page
    assert open_console(stack).get(f"/jobs/{job}/images/4").status_code == 404


def test_text_of_tenants_is_never_markup(stack: Stack) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    item = {"caption": evil, evil: evil, "metadata": {evil: [evil]}, "id": evil}
    job = make_job(stack, 2, items=[item], model=evil, idempotency_key=evil, reason=evil, failures=[1])
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE outputs SET error = :e WHERE job_id = :j AND index = 1"), {"e": evil, "j": job})
    console = open_console(stack)
    for path in (
        "/jobs",
        f"/jobs?q={evil}",
        f"/jobs/{job}",
        f"/jobs/{job}/images/0",
        f"/jobs/{job}/images/1",
        f"/{evil}",
    ):
        page = console.get(path).text
        assert "<script>alert" not in page, path
        assert "<img src=x" not in page, path


def test_thumbnails_are_small_and_cached(stack: Stack) -> None:
    job = make_job(stack, 1, size=600)
    console = open_console(stack)
    answer = console.get(f"/jobs/{job}/images/0/128.webp")
    assert (answer.headers["content-type"], "immutable" in answer.headers["cache-control"]) == ("image/webp", True)
    assert Image.open(io.BytesIO(answer.content)).size == (128, 128)
    with stack.engine("submitter").connect() as connection:
        key = connection.scalar(text("SELECT key FROM outputs WHERE job_id = :job"), {"job": job})
    stack.store().delete([key])
    assert console.get(f"/jobs/{job}/images/0/128.webp").content == answer.content
    assert console.get(f"/jobs/{job}/images/0/129.webp").status_code == 404
    gone = console.get(f"/jobs/{job}/images/0/256.webp")
    assert (gone.status_code, "does not exist" in gone.text) == (404, True)


@pytest.mark.parametrize(("pixels", "is_exact"), [(32, True), (128, True), (256, False), (600, False)])
def test_copies_of_images_that_are_shown_enlarged_are_exact(pixels: int, is_exact: bool) -> None:
    body = picture(3, pixels)
    copy = shrink(body, 256)
    with Image.open(io.BytesIO(copy)) as shown, Image.open(io.BytesIO(body)) as made:
        assert max(shown.size) == min(pixels, 256)
        assert (shown.tobytes() == made.tobytes()) == is_exact
    assert is_exact or len(copy) < len(body) / 4


def test_scripts_and_styles_are_asked_for_once(stack: Stack) -> None:
    console = open_console(stack)
    found = re.findall(r'(?:href|src)="(/static/[^"]+)"', console.get("/jobs").text)
    assert len(found) >= 4
    for path in found:
        answer = console.get(path)
        assert (answer.status_code, "immutable" in answer.headers["Cache-Control"]) == (200, True), path
    unnamed = console.get(found[0].split("?")[0])
    assert unnamed.headers["Cache-Control"] == "no-cache"
    assert console.get(unnamed.url, headers={"If-None-Match": unnamed.headers["ETag"]}).status_code == 304
    assert console.get(found[0].split("?")[0], params={"v": "0"}).headers["Cache-Control"] == "no-cache"


def test_a_page_needs_few_statements(stack: Stack) -> None:
    job = make_job(stack, 3)
    console, statements = open_console(stack), list[str]()
    engine = console.app.state.parts.database  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    for path, most in (
        ("/jobs", 2),
        (f"/jobs/{job}", 10),
        (f"/jobs/{job}/images/1", 9),
        (f"/jobs/{job}/images/1/256.webp", 2),
    ):
        statements.clear()
        assert console.get(path).status_code == 200
        assert len(statements) <= most, (path, statements)


@pytest.mark.parametrize("body", [b"", b"no image", decompression_bomb(20_000), picture(1)[:100], b"<svg/>"])
def test_hostile_files_are_not_shown(stack: Stack, body: bytes) -> None:
    import hashlib

    job = make_job(stack, 1)
    sha256 = hashlib.sha256(body).hexdigest()
    with stack.engine("migrator").begin() as connection:
        values = {"job": job, "sha256": sha256}
        key = connection.scalar(text("UPDATE outputs SET sha256 = :sha256 WHERE job_id = :job RETURNING key"), values)
    stack.store().put(key, body, content_type="image/png")
    answer = open_console(stack).get(f"/jobs/{job}/images/0/256.webp")
    assert (answer.status_code, "cannot be shown" in answer.text) == (404, True)


def test_a_file_that_was_replaced_is_not_shown(stack: Stack) -> None:
    job = make_job(stack, 1)
    stack.store().put(f"outputs/default/{job}/images/00000000.png", picture(99), content_type="image/png")
    for name in ("256.webp", "file"):
        answer = open_console(stack).get(f"/jobs/{job}/images/0/{name}")
        assert (answer.status_code, "was replaced" in answer.text) == (404, True)


def test_the_memory_of_thumbnails_is_bounded(stack: Stack) -> None:
    job = make_job(stack, 16)
    thumbnails = Thumbnails(kept_bytes=20_000)
    for index, row in enumerate(stack.outputs(job)):
        thumbnails.get(stack.store(), Output(index, 0, 1, row.key, row.sha256), 128)
    assert 0 < thumbnails.bytes <= 20_000


@pytest.mark.parametrize(
    "path", ["/jobs/not-a-uuid", f"/jobs/{uuid.UUID(int=0)}", "/jobs/../../etc/passwd", "/static/../app.py",
             "/static/%2e%2e/app.py"]
)  # fmt: skip
def test_odd_addresses_get_a_page_without_a_stack_trace(stack: Stack, path: str) -> None:
    answer = open_console(stack).get(path)
    assert answer.status_code in (404, 422)
    assert "Traceback" not in answer.text
    assert "<h1>" in answer.text
