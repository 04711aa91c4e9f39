"""Classifies errors of Postgres: the server is unavailable, a statement cannot work, or a row is at fault."""

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

READ_ONLY = "25006"
STATEMENT_TIMEOUT = "57014"
# Classes of SQLSTATE: connection, resources, shutdown.
OUTAGES = frozenset({"08", "53", "57"})
# Session, login, database, rollback by the server, name or privilege, lock, system.
STATEMENTS = frozenset({"25", "28", "3D", "40", "42", "55", "58"})


def is_outage(error: BaseException) -> bool:
    """Return whether the server cannot be reached or takes no changes now. A restart of this process would not help."""
    if not isinstance(error, DBAPIError):
        return False
    state = _sqlstate(error)
    if error.connection_invalidated or state == READ_ONLY:
        return True
    if state is None:
        return isinstance(error, OperationalError | InterfaceError)
    return state[:2] in OUTAGES and state != STATEMENT_TIMEOUT


def is_fault_of_a_row(error: BaseException) -> bool:
    """Return whether a value caused the error: one that SQL cannot compute with, or one that Python cannot hold.

    A statement that runs into its time-out counts as well: alone, only its row can be the reason.
    """
    if is_outage(error):
        return False
    state = _sqlstate(error)
    return state is None or state == STATEMENT_TIMEOUT or state[:2] not in STATEMENTS


def _sqlstate(error: BaseException) -> str | None:
    return getattr(getattr(error, "orig", None), "sqlstate", None)
