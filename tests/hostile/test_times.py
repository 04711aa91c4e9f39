"""A time that a program cannot hold is refused."""

import psycopg
import pytest

from tests.support.tenants import Tenant

ODD = ["-infinity", "infinity", "0001-01-01", "4713-01-01 BC", "1999-12-31 23:59:59Z", "9999-12-31", "294276-12-31"]


@pytest.mark.parametrize("time", ODD)
@pytest.mark.parametrize("column", ["deadline", "run_after"])
def test_a_time_that_no_program_holds_is_refused(attacker: Tenant, column: str, time: str) -> None:
    job = f'{{"model": "m", "request": {{}}, "{column}": "{time}"}}'
    with attacker.connect() as connection:
        for statement, values in (
            (f"INSERT INTO jobs (model, request, {column}) VALUES ('m', '{{}}', %s)", time),
            ("SELECT submit_job(%s)", job),
            ("SELECT submit_jobs(%s)", f"[{job}]"),
        ):
            with pytest.raises(psycopg.errors.CheckViolation, match=rf"{column}: .* is not allowed; permitted: a time"):
                connection.execute(statement, (values,))


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "UTC"])
@pytest.mark.parametrize("time", ["2000-01-01 00:00Z", "9998-12-31 00:00Z"])
def test_the_first_and_the_last_time_are_read_in_every_time_zone(attacker: Tenant, zone: str, time: str) -> None:
    job_id = attacker.submit(run_after="9998-12-30" if time.startswith("9998") else None, deadline=time)
    with attacker.connect(options=f"-c timezone={zone}") as connection:
        row = connection.execute("SELECT deadline FROM jobs WHERE id = %s", (job_id,)).fetchall()[0]
        assert row.deadline.year in (1999, 2000, 9998)
        connection.execute("SELECT cancel_job(%s)", (job_id,))
