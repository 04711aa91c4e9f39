"""Locks on several tables at once, for a migration that changes more than one of them."""

from alembic import op

PAUSE_S = 0.02
TRIES = 150  # three seconds; `services.database.schema` then tries the whole step again


def lock_tables(*names: str) -> None:
    """Lock tables in ACCESS EXCLUSIVE mode until the end of the migration, all or none.

    It never waits for one table while it holds another: that could be a deadlock with a process that locks them in
    another order. Raises lock_not_available (SQLSTATE 55P03) if the tables are in use all the time.
    """
    tables = ", ".join(names)
    op.execute(f"""
        DO $$
        BEGIN
            FOR attempt IN 1..{TRIES} LOOP
                BEGIN
                    LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE NOWAIT;
                    RETURN;
                EXCEPTION WHEN lock_not_available THEN
                    PERFORM pg_sleep({PAUSE_S});
                END;
            END LOOP;
            RAISE EXCEPTION 'the tables {tables} are in use' USING ERRCODE = 'lock_not_available';
        END $$;
    """)
