"""Jobs of many images: how much of them Postgres reads for a page."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text

from services.console.viewer import Viewer
from tests.support.console import make_job, open_console
from tests.support.stack import Stack

IMAGES = 20_000


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


@pytest.mark.parametrize("path", ["", "/errors"])
@pytest.mark.parametrize("failures", [(), (IMAGES - 9, IMAGES - 2)])
def test_a_page_of_failures_reads_no_other_images(stack: Stack, path: str, failures: tuple[int, ...]) -> None:
    job = make_job(stack, IMAGES, failures=failures, pictures=1)
    with stack.engine("migrator").connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE outputs"))
    console, found = open_console(stack), list[tuple[str, Any]]()
    parts: Any = console.app.state.parts  # type: ignore[attr-defined]
    event.listen(parts.database, "before_cursor_execute", lambda *given: found.append((given[2], given[3])))
    page = console.get(f"/jobs/{job}{path}?failed=true").text
    assert all(f"/jobs/{job}/images/{index}" in page for index in failures)
    statements = [(statement, values) for statement, values in found if "error IS NOT NULL" in statement]
    assert statements
    for statement, values in statements:
        with parts.begin(Viewer("ada", "default")) as connection:
            explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values)
            plan = explained.scalar_one()
        read = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "outputs_all"]
        assert read
        removed = sum(node.get(f"Rows Removed by {why}", 0) for node in read for why in ("Filter", "Index Recheck"))
        assert removed < 10, json.dumps(plan)
        assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 100, json.dumps(plan)
