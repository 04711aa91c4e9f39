"""SQL on a table is in one package: the queue's in job_queue, the releases' in registry, the catalog's in database."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("services", "training", "kfp_pipelines")
QUEUE = (
    "tenants", "queues", "jobs", "work", "outputs", "workers", "queue_load", "open_jobs", "jobs_under_way",
    "submit_job", "submit_jobs", "change_job", "cancel_job", "cancel_jobs", "retry_job",
    "change_requests", "tenant_usage", "webhooks", "webhook_events", "usage_counts",
)  # fmt: skip
RELEASES = ("releases", "aliases", "evaluations", "promotions")
CATALOG = ("alembic_version", "schema_revisions", "pg_roles", "pg_stat_activity", "pg_database")
ROOMS = {
    **dict.fromkeys(QUEUE, ("services/job_queue/",)),
    # A job's release is joined to it.
    **dict.fromkeys(RELEASES, ("services/registry/", "services/job_queue/jobs.py")),
    # The local stack creates its database before there is a schema.
    **dict.fromkeys(CATALOG, ("services/database/", "services/local_stack/postgres.py")),
}
ROOMS["jobs"] += ("kfp_pipelines/commands/demo.py",)  # shows the INSERT that a client in any language writes
STATEMENT = re.compile(rf"\b(?:FROM|JOIN|INTO|UPDATE|SELECT)\s+({'|'.join(ROOMS)})\b")
WORTH_PARSING = re.compile("FROM|JOIN|INTO|UPDATE|SELECT|sqlalchemy")
ROOMS_OF_TEXT = ("services/job_queue/", "services/registry/", "services/database/")


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string of a module with its line; an f-string without the values in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "?" for part in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def misplaced_sql(path: str, source: str) -> list[str]:
    """What SQL of a file belongs into another package: one line for each place."""
    if not WORTH_PARSING.search(source):
        return []
    tree = ast.parse(source)
    found = {
        f"{path}:{line}: SQL on {table} belongs into {' or '.join(ROOMS[table])}"
        for line, literal in literals(tree)
        for table in STATEMENT.findall(literal)
        if not path.startswith(ROOMS[table])
    }
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        is_text = isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy" and "text" in names
        if is_text and not path.startswith(ROOMS_OF_TEXT):
            found.add(f"{path}: statements belong into {', '.join(ROOMS_OF_TEXT)}; add a function there")
    return sorted(found)


def test_sql_is_in_the_package_of_its_tables() -> None:
    files = [path for package in PRODUCT for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    assert [line for path in files for line in misplaced_sql(str(path.relative_to(ROOT)), path.read_text())] == []


@pytest.mark.parametrize(
    ("path", "source", "table"),
    [
        ("services/worker/worker.py", "query = 'SELECT id FROM work WHERE id = :id'", "work"),
        ("services/cli/jobs.py", "query = f'''\nUPDATE jobs\nSET {changes}'''", "jobs"),
        ("services/cli/jobs.py", "query = 'SELECT submit_job(:job)'", "submit_job"),
        ("services/registry/releases.py", "'DELETE FROM outputs'", "outputs"),
        ("services/job_queue/leases.py", "'SELECT 1 FROM work JOIN releases ON true'", "releases"),
        ("kfp_pipelines/stages/smoke.py", "'INSERT INTO promotions VALUES (1)'", "promotions"),
        ("services/cli/check.py", "'SELECT FROM pg_roles'", "pg_roles"),
    ],
)
def test_misplaced_sql_is_found(path: str, source: str, table: str) -> None:
    assert [f"SQL on {table} belongs into" in line for line in misplaced_sql(path, source)] == [True]


def test_statements_of_other_packages_are_found() -> None:
    assert len(misplaced_sql("services/cli/jobs.py", "from sqlalchemy import Engine, text")) == 1
    assert misplaced_sql("services/cli/jobs.py", "from sqlalchemy import Engine") == []


def test_prose_is_no_sql() -> None:
    assert misplaced_sql("services/cli/jobs.py", "'Remove finished images from jobs, and select work.'") == []
