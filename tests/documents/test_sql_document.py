"""The SQL of docs/sql.md and docs/requests.md, and the Python of docs/model.md and the README, run as shown."""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.job_queue import empty_queue
from tests.support.stack import Process, Stack

SQL = [
    statement
    for page in ("docs/sql.md", "docs/requests.md")
    for statement in re.findall(r"```sql\n(.*?)```", Path(page).read_text(), re.DOTALL)
]


@pytest.mark.parametrize("statement", SQL, ids=lambda s: s.split("\n")[0][:40])
def test_the_sql_examples_run_as_shown(stack: Stack, statement: str) -> None:
    url = stack.settings("submitter").database_url.get_secret_value().replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement)
        assert cursor.description is not None
        if statement.startswith("INSERT"):
            assert len(cursor.fetchall()) == 1


PYTHON = re.findall(r"```python\n(.*?)```", Path("docs/model.md").read_text(), re.DOTALL)


def test_the_sampling_examples_run_as_shown(tiny_release: Path) -> None:
    (code,) = PYTHON
    names: dict[str, Any] = {}
    exec(code.replace("runs/digits/release", str(tiny_release)), names)
    assert names["images"].shape == names["varied"].shape == names["between"].shape == (4, 1, 32, 32)
    assert names["wide"].shape == (1, 1, 32, 64)
    assert len(names["snapshots"]) == 5


def test_the_client_of_the_readme_runs_as_shown(
    stack: Stack,
    dispatcher: Process,
    worker: Process,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    empty_queue(stack.engine("migrator"))  # of the jobs of other tests, before which it would have to wait
    monkeypatch.chdir(tmp_path)
    exec(code.replace("digits@production", "tiny@production"), {})
    assert capsys.readouterr().out == "succeeded\n"
    assert len(list((tmp_path / "images").glob("*.png"))) == 16
