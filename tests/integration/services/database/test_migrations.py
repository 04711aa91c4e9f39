"""The migrations create the tables of migrations/tables."""

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from migrations.tables import metadata
from services.database import connections, schema
from tests.support.stack import Stack


def test_tables_and_migrations_agree(stack: Stack) -> None:
    with stack.engine("migrator").connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [d for d in compare_metadata(context, metadata) if not is_expected(d)]
    assert differences == []


def is_expected(difference: object) -> bool:
    """Partitions, indexes and constraints are in the migrations only."""
    kind, thing = (difference[0], difference[1]) if isinstance(difference, tuple) else (None, None)
    if kind == "remove_table":
        return str(getattr(thing, "name", "")) in ("outputs_all", "alembic_version")
    return kind in ("remove_index", "remove_constraint", "add_constraint")


def test_downgrading_to_nothing_and_upgrading_again(stack: Stack) -> None:
    owner = stack.engine("migrator")
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE round_trip"))
    engine = connections.connect(owner.url.set(database="round_trip").render_as_string(hide_password=False))
    try:
        assert schema.upgrade(engine) == schema.upgrade(engine)
        config = Config()
        config.set_main_option("script_location", "migrations")
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, "base")
        with engine.connect() as connection:
            left = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        assert left == ["alembic_version"]
        schema.upgrade(engine)
        schema.check_schema(engine)
    finally:
        engine.dispose()
        with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("DROP DATABASE round_trip"))


def test_vacuum_of_the_large_tables_does_not_wait_for_a_fifth_of_them(stack: Stack) -> None:
    query = text("SELECT relname, reloptions FROM pg_class WHERE relname IN ('jobs', 'work', 'outputs_all')")
    with stack.engine("migrator").connect() as connection:
        found = {
            row.relname: dict(option.split("=") for option in row.reloptions or ()) for row in connection.execute(query)
        }
    assert {name: float(options["autovacuum_vacuum_scale_factor"]) for name, options in found.items()} == {
        "jobs": 0.01, "work": 0.01, "outputs_all": 0.02,
    }  # fmt: skip
