"""What docs/operations.md and its neighbours tell an operator to run can be run."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from sqlalchemy import text

from services.cli import app
from tests.support.chart import CHART, MATRIX, load_objects, template
from tests.support.stack import Stack

PAGES = {
    name: Path(f"docs/{name}.md").read_text()
    for name in ("quickstart", "operations", "sizing", "security", "upgrades", "gitops", "metrics")
}
KEYWORDS = "SELECT|UPDATE|INSERT|DELETE|ALTER|GRANT"
# What a reader replaces by something of their own.
PLACEHOLDERS = {
    "ALTER ROLE NAME": "ALTER ROLE local_worker",
    "(PID)": "(-1)",
    "tenant_NAME TO MIGRATOR": "local_submitter TO CURRENT_USER",
    "'JOB'": "'01a21c83-0d17-7692-8308-bd2209d88758'",
}
WORDS = {
    "ID": "01a21c83-0d17-7692-8308-bd2209d88758",
    "N": "3",
    "PICTURES": ".",
    "JOB_ID": "01a21c83-0d17-7692-8308-bd2209d88758",
}


def blocks(page: str) -> Iterator[str]:
    """Yield the blocks of code of a page, without those of another language."""
    yield from (
        block for block in re.findall(r"(?:^(?: {4,}).+\n)+", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.M)
    )
    yield from re.findall(r"```(?:sql|sh|bash)\n(.*?)```", page, re.DOTALL)


def spans(page: str) -> Iterator[str]:
    """Yield the code within the text of a page."""
    yield from (
        " ".join(span.split()) for span in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    )


def find_statements() -> list[str]:
    found = []
    for page in PAGES.values():
        for block in blocks(page):
            found += [line.strip() for line in block.split(";\n") if re.match(rf"({KEYWORDS}) ", line.strip())]
        found += [span for span in spans(page) if re.match(rf"({KEYWORDS}) ", span) and "..." not in span]
    return found


def find_commands() -> list[str]:
    """Return the commands of `darkroom` with their arguments, as a shell reads them."""
    found = set()
    for page in PAGES.values():
        lines = [line for block in blocks(page) for line in block.splitlines()]
        for line in (*lines, *spans(page)):
            command = re.match(r"\s*(?:\w+=\S+ )?darkroom ((?:[a-z-]+)(?: [^#]+)?)", line)
            if command:
                found.add(command[1].strip())
    return sorted(found)


@pytest.mark.parametrize("statement", find_statements(), ids=lambda s: " ".join(s.split())[:50])
def test_a_statement_runs_as_the_tables_owner(stack: Stack, statement: str) -> None:
    for placeholder, value in PLACEHOLDERS.items():
        statement = statement.replace(placeholder, value)
    with stack.engine("migrator").connect() as connection, connection.begin() as transaction:
        if statement.startswith("INSERT INTO service_locks"):  # the row is missing, as the runbook says
            connection.execute(text("DELETE FROM service_locks WHERE name = 'reconcile'"))
        connection.exec_driver_sql(statement.rstrip(";").replace("%", "%%"))
        transaction.rollback()


def test_statements_are_found() -> None:
    assert len(find_statements()) >= 12


@pytest.mark.parametrize("command", find_commands())
def test_a_command_has_these_options_and_arguments(command: str) -> None:
    words = [WORDS.get(word, word) for word in shlex.split(command)]
    group: Any = typer.main.get_command(app)
    context = group.context_class(group, info_name="darkroom")
    while words and hasattr(group, "resolve_command") and not words[0].startswith("-"):
        name, group, words = group.resolve_command(context, words)
        assert group is not None, f"darkroom has no command {name}"
        context = type(context)(group, info_name=name, parent=context)
    if hasattr(group, "resolve_command"):
        return  # a group that is named as a whole
    options = {
        option: parameter for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    for word in words:
        assert not word.startswith("--") or word.partition("=")[0] in options, f"darkroom {command} has no {word}"
    if words:  # with its arguments, not only named
        group.make_context(command, words)


def test_commands_are_found() -> None:
    assert len(find_commands()) >= 20


def test_a_metric_that_a_runbook_names_is_exported() -> None:
    known = set(re.findall(r"`(darkroom[\w:]+)", PAGES["metrics"]))  # which is compared with the code
    recorded = set(re.findall(r"record: (darkroom\S+)", (CHART / "files" / "rules.yaml").read_text()))
    named = set(re.findall(r"`(darkroom[_:][\w:]+)", PAGES["operations"]))
    assert named - known - recorded == set()


def test_a_value_that_a_page_names_exists() -> None:
    """Also a field of one pool, workerPools.NAME.paused, and one that is named without its parent, cache.sizeGb."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    known = (
        set(list_paths(values)) | set(list_paths(values["workerDefaults"])) | set(list_paths(values["networkPolicy"]))
    )
    known |= set(list_paths(values["podDefaults"]))
    named = {
        re.sub(r"^workerPools\.(NAME|X)\.", "", span.partition(":")[0].partition(" ")[0])
        for page in PAGES.values()
        for span in spans(page)
        if re.match(r"[a-z]\w+\.[a-z]\w+(\.\w+)*(: .*)?$", span)
        and span.split(".")[0] in {p.split(".")[0] for p in known}
    }
    assert named - known == set()


def list_paths(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{path}{name}"
        if isinstance(value, dict):
            yield from list_paths(value, f"{path}{name}.")


def test_the_migration_runs_again_by_the_command_of_its_runbook() -> None:
    (option,) = re.findall(r"--set-string (migration\.attempt)=\$\(date \+%s\)", PAGES["operations"])

    def jobs(*more: str) -> set[str]:
        objects = load_objects(template(MATRIX["least"], *more).stdout)
        return {one["metadata"]["name"] for one in objects if one["kind"] == "Job"}

    assert not jobs() & jobs("--set-string", f"{option}=1764236000")


def test_names_of_objects_in_commands_are_those_of_the_chart() -> None:
    objects = load_objects(template(MATRIX["least"], "--set", "workerPools.name.replicas=1").stdout)
    rendered = {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in objects}
    for name in re.findall(r"deployment/[\w-]+", PAGES["operations"]):
        assert name.replace("NAME", "name") in rendered
    labels = {f"{key}={value}" for one in objects for key, value in one["metadata"].get("labels", {}).items()}
    for selector in re.findall(r"--selector (\S+)", PAGES["operations"]):
        assert selector in labels


OF_POSTGRES = "The server process with PID"  # a message of the server


def test_a_message_that_a_runbook_quotes_is_written_somewhere() -> None:
    """Words in capitals, and what stands for more, are filled in."""
    page = re.sub(r"(?:^(?: {4,}).+\n)+", "", PAGES["operations"], flags=re.MULTILINE)
    files = [file for folder in ("services", "training") for file in Path(folder).rglob("*.py")]
    source = re.sub(r'" f?"|\{[^}]*\}', "*", " ".join(" ".join(file.read_text().split()) for file in files)).replace(
        "*", ""
    )
    quoted = [" ".join(words.split()) for words in re.findall(r'"([^"]{6,})"', page)]
    assert len(quoted) >= 8
    for words in quoted:
        if words.startswith(OF_POSTGRES):
            continue
        parts = [part.strip(" ,.:") for part in re.split(r"\b[A-Z_]{2,}\b|/dev/\w+|s3://|…|\.\.\.", words)]
        assert [part for part in parts if part and part not in source] == [], words
