"""Postgres or S3 away: pages say so, and work again when it is back."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.testclient import TestClient

from services.console.app import make_app
from services.console.sign_in import SignInLinks
from services.console.viewer import Viewer
from services.storage.object_store import ObjectStore
from tests.support.console import HTML, console_settings, make_job, open_console
from tests.support.stack import Stack
from tests.support.tenants import administrator


@contextmanager
def no_postgres(stack: Stack) -> Iterator[None]:
    """Let the console's login reach Postgres no more."""
    with administrator(stack) as owner:
        owner.execute("ALTER ROLE local_console NOLOGIN")
        try:
            owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'local_console'")
            yield
        finally:
            owner.execute("ALTER ROLE local_console LOGIN")


def test_pages_without_postgres_say_so_and_come_back(stack: Stack) -> None:
    job, console = make_job(stack, 1), open_console(stack)
    page = console.get(f"/jobs/{job}")
    assert page.status_code == 200
    (token,) = set(re.findall(r'name="csrf" value="([^"]+)"', page.text))
    with no_postgres(stack):
        for path in ("/jobs", f"/jobs/{job}", f"/jobs/{job}/images/0"):
            answer = console.get(path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert "Postgres does not answer" in answer.text
            assert 'data-retry="5"' in answer.text
        form = console.post(f"/jobs/{job}/pause", data={"csrf": token})
        assert (form.status_code, "Go back and send the form again" in form.text) == (503, True)
        assert f'href="/jobs/{job}/pause"' not in form.text  # to open it is no form
        assert "data-retry" not in form.text
        assert console.get("/readyz").status_code == 503
        assert console.get("/healthz").status_code == 200
        api = console.get("/api/v1/jobs", headers={"Authorization": "Bearer x", "Accept": "application/json"})
        assert (api.status_code, api.json()["detail"]) == (503, "Postgres does not answer.")
    assert console.get(f"/jobs/{job}").status_code == 200
    assert console.get("/readyz").json() == {"ok": True, "reasons": []}


def test_pages_without_s3_work_and_images_say_so(stack: Stack) -> None:
    job = make_job(stack, 1)
    settings = console_settings(stack).model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"})
    links = SignInLinks()
    app = make_app(settings, stack.engine("console"), ObjectStore.connect(settings), links)
    console = TestClient(app, base_url="http://127.0.0.1", headers=HTML, raise_server_exceptions=False)
    console.get("/sign-in", params={"token": links.issue(Viewer("ada", "default"))})
    assert console.get(f"/jobs/{job}").status_code == 200
    answer = console.get(f"/jobs/{job}/images/0/256.webp")
    assert (answer.status_code, "S3 does not answer" in answer.text) == (503, True)


def test_a_job_that_was_pruned_meanwhile_is_missing(stack: Stack) -> None:
    job, console = make_job(stack, 1), open_console(stack)
    assert console.get(f"/jobs/{job}").status_code == 200
    with administrator(stack) as owner:
        owner.execute("DELETE FROM outputs WHERE job_id = %s", (job,))
        owner.execute("DELETE FROM jobs WHERE id = %s", (job,))
    for path in ("", "/images/0", "/images/0/256.webp"):
        answer = console.get(f"/jobs/{job}{path}")
        assert (answer.status_code, "does not exist" in answer.text) == (404, True)
