"""Deleting many jobs costs in proportion to their number."""

from sqlalchemy import Connection, Engine, text

from tests.support.stack import Stack

MANY = 2_000


def buffers(connection: Connection, statement: str) -> int:
    """Return how many pages a statement and its triggers touch."""
    connection.execute(text("SELECT pg_stat_force_next_flush()"))
    (plan,) = connection.execute(text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")).scalars()
    root = plan[0]["Plan"]
    return int(root["Shared Hit Blocks"] + root["Shared Read Blocks"])


def delete(engine: Engine, jobs: int) -> tuple[int, int]:
    """Delete open jobs of one tenant. Returns how many pages that touches, and how many jobs count as open then."""
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO jobs (model, request) SELECT 'nobody', '{}' FROM generate_series(1, :n)"), {"n": jobs}
        )
    with engine.begin() as connection:
        touched = buffers(connection, "DELETE FROM jobs WHERE finished_at IS NULL")
        query = """
            SELECT submitted.jobs - ended.jobs FROM tenant_submissions AS submitted
            JOIN tenant_endings AS ended USING (tenant) WHERE tenant = 'default'
        """
        return touched, int(connection.execute(text(query)).scalar_one())


def test_the_cost_grows_with_the_number_of_jobs(stack: Stack, engine: Engine) -> None:
    few, open_jobs = delete(engine, MANY)
    assert open_jobs == 0
    many, open_jobs = delete(engine, 4 * MANY)
    assert open_jobs == 0
    assert many < 8 * few, (few, many)
