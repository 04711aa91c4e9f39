"""Logins of Postgres, each a member of one role, with time-outs so that a hanging session blocks no other."""

import re

from psycopg import Error, errors, sql
from sqlalchemy import Connection, text

from services.database.connections import DatabaseError

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
MAX_CONNECTIONS = 20  # of a tenant's login, unless an operator sets another number

# The settings belong to the login, so they hold behind a pooler as well. A peer that has lost its network is noticed
# by the TCP settings within 25 s; the defaults of the kernel take two hours.
COMMON = {
    "tcp_keepalives_idle": "10s",
    "tcp_keepalives_interval": "5s",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20s",
    "client_connection_check_interval": "10s",
}
SERVICE = {
    "idle_in_transaction_session_timeout": "5s",
    "statement_timeout": "30s",
    "lock_timeout": "5s",
}
# They hold a lock while they delete a thousand blobs, perhaps one by one, or upload one that was deleted meanwhile.
COPYING = {**SERVICE, "idle_in_transaction_session_timeout": "5min", "statement_timeout": "10min"}
LIMITS = {
    "dispatcher": {**SERVICE, "idle_in_transaction_session_timeout": "10s"},
    "worker": SERVICE,
    "observer": SERVICE,
    "console": {**SERVICE, "statement_timeout": "10s", "temp_file_limit": "1GB"},
    "publisher": COPYING,
    "pruner": COPYING,
    "submitter": {
        "idle_in_transaction_session_timeout": "60s",
        "statement_timeout": "60s",
        "lock_timeout": "10s",
        "temp_file_limit": "1GB",
    },
}
# Without these, a transaction that hangs holds its locks for ever.
REQUIRED = ["idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout"]
# A setting that this server does not have, or that only a superuser may set.
NOT_SETTABLE = (errors.InsufficientPrivilege, errors.UndefinedObject, errors.InvalidParameterValue)


def ensure_login(connection: Connection, login: str, *, group: str, password: str) -> list[str]:
    """Create a login or set its password, make it a member of the role darkroom_<group>, and limit it.

    A limit that the login has already stays as an operator has set it. Returns the limits that the login of this
    connection may not set, as NAME = VALUE. Raises DatabaseError for a name that is not allowed.
    """
    if not NAME.fullmatch(login):
        raise DatabaseError(f"login: {login!r} is not allowed; permitted: a-z, 0-9, _ and -, at most 63")
    cursor = connection.connection.cursor()
    role = cursor.execute("SELECT rolconnlimit, rolconfig FROM pg_roles WHERE rolname = %s", (login,)).fetchone()
    verb = sql.SQL("CREATE" if role is None else "ALTER")
    cursor.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(login), sql.Literal(password)))
    cursor.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(f"darkroom_{group}"), sql.Identifier(login)))
    if group == "submitter":
        _join(connection, login)
    max_connections, settings = role or (-1, None)
    if group == "submitter" and max_connections == -1:
        limit_connections(connection, login, MAX_CONNECTIONS)
    present = {setting.partition("=")[0] for setting in settings or ()}
    missing = {name: value for name, value in {**COMMON, **LIMITS[group]}.items() if name not in present}
    return [f"{name} = {value}" for name, value in missing.items() if not _set(connection, login, name, value)]


def _join(connection: Connection, login: str) -> None:
    """Make the owner of the tables a member of a client's login, so that it may end the client's old transactions.

    A superuser may do so anyway, and another owner only with logins that it has created.
    """
    cursor = connection.connection.cursor()
    (is_superuser,) = cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() or (True,)
    if is_superuser:
        return
    try:
        with connection.begin_nested():
            cursor.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(login)))
    except errors.InsufficientPrivilege:
        return


def _set(connection: Connection, login: str, name: str, value: str) -> bool:
    """Set a setting of a login. Returns False if that is not possible with this server or this connection's login."""
    statement = sql.SQL("ALTER ROLE {} SET {} = {}").format(sql.Identifier(login), sql.Identifier(name), value)
    try:
        with connection.begin_nested():
            connection.connection.cursor().execute(statement)
    except NOT_SETTABLE:
        return False
    return True


def limit_connections(connection: Connection, login: str, limit: int) -> None:
    """Set how many connections a login may have at once. Raises DatabaseError if the login does not exist."""
    statement = sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(sql.Identifier(login), limit)
    try:
        connection.connection.cursor().execute(statement)
    except Error as error:
        raise DatabaseError(f"The limit of login {login!r} cannot be set: {error}") from None


def connection_limits(connection: Connection) -> dict[str, int]:
    """Return how many connections each login may have at once; -1: any number."""
    rows = connection.execute(text("SELECT rolname, rolconnlimit FROM pg_roles WHERE rolcanlogin"))
    return {row.rolname: row.rolconnlimit for row in rows}


def logins_without_limits(connection: Connection) -> list[str]:
    """Return the logins of the service and of its tenants whose transactions have no limit on time."""
    return list(
        connection.scalars(
            text("""
                SELECT rolname FROM pg_roles AS login
                WHERE rolcanlogin AND NOT rolsuper AND EXISTS (
                    SELECT FROM pg_roles AS role WHERE role.rolname = ANY (:roles)
                        AND pg_has_role(login.oid, role.oid, 'MEMBER'))
                    AND EXISTS (
                        SELECT FROM unnest(CAST(:required AS text[])) AS name WHERE NOT EXISTS (
                            SELECT FROM pg_db_role_setting, unnest(setconfig) AS setting
                            WHERE setrole IN (0, login.oid) AND setting LIKE name || '=%' AND setdatabase IN
                                (0, (SELECT oid FROM pg_database WHERE datname = current_database()))))
                ORDER BY rolname
            """),
            {"roles": [f"darkroom_{group}" for group in LIMITS], "required": REQUIRED},
        )
    )
