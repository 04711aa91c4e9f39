"""Postgres logins and tenants."""

import re

from psycopg import sql
from sqlalchemy import Connection, text

from services.database.connections import DatabaseError

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def ensure_login(connection: Connection, login: str, *, group: str, password: str) -> None:
    """Create `login` or set its password; it belongs to the role darkroom_<group> and to nothing else."""
    if not NAME.fullmatch(login):
        raise DatabaseError(f"login: {login!r} is not allowed; permitted: a-z, 0-9, _ and -, at most 63")
    cursor = connection.connection.cursor()
    exists = cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (login,)).fetchone() is not None
    verb = sql.SQL("ALTER" if exists else "CREATE")
    cursor.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(login), sql.Literal(password)))
    cursor.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(f"darkroom_{group}"), sql.Identifier(login)))


def ensure_tenant(connection: Connection, name: str, *, login: str) -> None:
    """Create a tenant or give it another login; it reads under inputs/<name>, writes under outputs/<name>."""
    if not NAME.fullmatch(name):
        raise DatabaseError(f"tenant: {name!r} is not allowed; permitted: a-z, 0-9, _ and -, at most 63")
    connection.execute(
        text("""
            INSERT INTO tenants (name, login, read_prefixes, write_prefixes)
            VALUES (:name, :login, ARRAY['inputs/' || :name], ARRAY['outputs/' || :name])
            ON CONFLICT (name) DO UPDATE SET login = excluded.login
        """),
        {"name": name, "login": login},
    )
