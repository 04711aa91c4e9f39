"""Logins of Postgres, each a member of one role."""

import re

from psycopg import sql
from sqlalchemy import Connection

from services.database.connections import DatabaseError

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def ensure_login(connection: Connection, login: str, *, group: str, password: str) -> None:
    """Create a login or set its password, and make it a member of the role darkroom_<group>.

    Raises DatabaseError for a name that is not allowed.
    """
    if not NAME.fullmatch(login):
        raise DatabaseError(f"login: {login!r} is not allowed; permitted: a-z, 0-9, _ and -, at most 63")
    cursor = connection.connection.cursor()
    exists = cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (login,)).fetchone() is not None
    verb = sql.SQL("ALTER" if exists else "CREATE")
    cursor.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(login), sql.Literal(password)))
    cursor.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(f"darkroom_{group}"), sql.Identifier(login)))
