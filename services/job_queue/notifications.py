"""The Postgres channel on which new work is announced."""

from collections.abc import Iterator

from sqlalchemy import URL

from services.database.connections import connect_directly

CHANNEL = "darkroom_work"  # triggers of the tables notify it too


def listen(url: URL, timeout_s: float = 1.0) -> Iterator[bool]:
    """Yield True for each announcement of work, and False after each `timeout_s` seconds without one.

    Raises psycopg.Error when the connection cannot be made or is lost.
    """
    with connect_directly(url, autocommit=True) as connection:
        connection.execute(f"LISTEN {CHANNEL}")
        while True:
            announced = False
            for _ in connection.notifies(timeout=timeout_s, stop_after=1):
                announced = True
            yield announced
