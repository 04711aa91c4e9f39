"""What to say to a person about an error of Postgres."""

from sqlalchemy.exc import DBAPIError, OperationalError

from services.database.connections import FULL_ADVICE, brief, is_full
from services.environment import advise

PERMISSION_DENIED, SHUTDOWN = "42501", "57P"  # SQLSTATE, and the beginning of several


def describe_database_error(error: BaseException) -> str | None:
    """Return one line about an error of Postgres and what to do, or None for any other error."""
    state = str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
    if isinstance(error, OperationalError) and (not state or state.startswith(SHUTDOWN)):
        if is_full(error):
            return f"Postgres has no connection left ({brief(error)}). {FULL_ADVICE}"
        return f"Postgres does not answer ({brief(error)}). {advise('DARKROOM_DATABASE_URL')}"
    if not isinstance(error, DBAPIError):
        return None
    message, hint = brief(error), getattr(getattr(error.orig, "diag", None), "message_hint", None)
    if state == PERMISSION_DENIED and message.startswith("permission denied"):
        hint = "The login in DARKROOM_DATABASE_URL has another role than this command needs."
    return f"{message}. {hint}" if hint else message
