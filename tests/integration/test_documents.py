"""Statements shown in the documents run as shown."""

import re
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Stack

SQL = re.findall(r"```sql\n(.*?)```", Path("docs/sql.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("statement", SQL, ids=lambda s: s.split("\n")[0][:40])
def test_sql_of_the_contract(stack: Stack, statement: str) -> None:
    url = stack.settings("submitter").database_url.get_secret_value().replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement)
        assert cursor.description is not None
        if statement.startswith("INSERT"):
            assert len(cursor.fetchall()) == 1
