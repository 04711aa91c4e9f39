"""The console in this process, jobs with images for it to show, and a browser."""

import hashlib
import io
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import text
from starlette.testclient import TestClient

from services.console.app import make_app
from services.console.sign_in import SignInLinks
from services.console.viewer import Viewer
from services.console_settings import ConsoleSettings, load_console
from tests.support.stack import Stack

HTML = {"Accept": "text/html"}
MADE: list[uuid.UUID] = []  # jobs of `make_job`, until `remove_jobs`


def console_settings(stack: Stack) -> ConsoleSettings:
    return load_console({"DARKROOM_ROOT": str(stack.root)})


def open_console(stack: Stack, tenant: str = "default", *, is_operator: bool = False, **changes: Any) -> TestClient:
    """A client that has signed in as `tenant`. changes: of the settings."""
    settings = console_settings(stack).model_copy(update=changes)
    links = SignInLinks()
    app = make_app(settings, stack.engine("console"), stack.store(), links)
    address = f"http{'s' if settings.console_hosts else ''}://127.0.0.1"
    client = TestClient(app, base_url=address, headers=HTML, raise_server_exceptions=False)
    signed_in = client.get("/sign-in", params={"token": links.issue(Viewer(tenant, tenant, is_operator))})
    assert signed_in.status_code == 200, signed_in.text
    return client


def picture(number: int, size: int = 64) -> bytes:
    """A PNG file that differs for each number."""
    random = np.random.default_rng(number)
    colours = random.integers(0, 255, (3, 3, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def make_job(
    stack: Stack,
    count: int,
    *,
    tenant: str = "default",
    items: Sequence[dict[str, Any]] = ({"class_label": 1},),
    failures: Sequence[int] = (),
    pictures: int = 16,
    size: int = 64,
    files: Sequence[bytes] = (),
    **columns: Any,
) -> uuid.UUID:
    """Insert an ended job of `count` images as the service would leave it. Its images are `pictures` different files.

    No worker runs for it, so that a hundred thousand images take seconds. files: PNG files to use instead. columns:
    further columns of the job.
    """
    with stack.engine("migrator").begin() as connection:
        job_id = uuid.UUID(str(connection.scalar(text("SELECT uuidv7()"))))
        prefix = f"outputs/{tenant}/{job_id}/images"
        files = files or [picture(number, size) for number in range(min(pictures, count))]
        for number, body in enumerate(files):
            stack.store().put(f"{prefix}/{number:08d}.png", body, content_type="image/png")
        per_item = -(-count // len(items))
        request = {"items": list(items), "images_per_item": per_item, "steps": 30, "seed": 7}
        values: dict[str, Any] = {
            "id": job_id, "tenant": tenant, "model": "tiny@production", "request": json.dumps(request),
            "plan": json.dumps({**request, "solver": "dpm_solver_2m", "guidance_scale": 1.5, "format": "png"}),
            "state": "partial" if failures else "succeeded", "total": count, "succeeded": count - len(failures),
            "failed": len(failures), "images_per_item": per_item, "started_at": datetime.now(UTC),
            "finished_at": datetime.now(UTC), **columns,
        }  # fmt: skip
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # no trigger: nothing is to be done
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        connection.execute(text(f"INSERT INTO jobs ({names}) VALUES ({marks})"), values)
        connection.execute(
            text("""
                INSERT INTO outputs (job_id, index, item, seed, key, sha256, bytes, profile, error)
                SELECT :job, n, n / :per_item, 7 + n,
                    CASE WHEN made THEN :prefix || '/' || lpad(CAST(n % :files AS text), 8, '0') || '.png' END,
                    CASE WHEN made THEN (CAST(:digests AS text[]))[n % :files + 1] END,
                    CASE WHEN made THEN (CAST(:sizes AS integer[]))[n % :files + 1] END,
                    CASE WHEN made THEN 'cpu' END, CASE WHEN NOT made THEN 'class_label: cannot be used' END
                FROM generate_series(0, :count - 1) AS n CROSS JOIN LATERAL (
                    SELECT n <> ALL(CAST(:failures AS integer[])) AS made) AS fate
            """),
            {
                "job": job_id, "per_item": per_item, "failures": list(failures), "prefix": prefix, "files": len(files),
                "digests": [hashlib.sha256(body).hexdigest() for body in files],
                "sizes": [len(body) for body in files], "count": count,
            },
        )  # fmt: skip
    MADE.append(job_id)
    return job_id


REFERENCES = text("""
    SELECT CAST(conrelid AS regclass), attname FROM pg_constraint
    JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
    WHERE confrelid = CAST('jobs' AS regclass)
""")  # without triggers, rows of other tables are not deleted with their job


def remove_jobs(stack: Stack) -> None:
    """Remove what `make_job` has made."""
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for table, column in [*connection.execute(REFERENCES).all(), ("outputs", "job_id"), ("jobs", "id")]:
            connection.execute(text(f"DELETE FROM {table} WHERE {column} = ANY(:ids)"), {"ids": MADE})
    MADE.clear()
