"""Error messages for people about Postgres."""

from sqlalchemy.exc import DBAPIError, OperationalError

from services.database.connections import FULL_ADVICE, brief, is_full
from services.environment import advise

PERMISSION_DENIED, SHUTDOWN = "42501", "57P"  # SQLSTATE, and the beginning of several
UNSTORABLE = "22P05"  # SQLSTATE of JSON with a character that no text of Postgres has


def describe_database_error(error: BaseException) -> str | None:
    """Return one line about an error of Postgres and what to do, or None for any other error."""
    state = str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
    if isinstance(error, OperationalError) and (not state or state.startswith(SHUTDOWN)):
        if is_full(error):
            return f"Postgres has no connection left ({brief(error)}). {FULL_ADVICE}"
        return f"Postgres does not answer ({brief(error)}). {advise('DARKROOM_DATABASE_URL')}"
    if not isinstance(error, DBAPIError):
        return None
    if state == PERMISSION_DENIED and brief(error).startswith("permission denied"):
        return f"{brief(error)}. The login in DARKROOM_DATABASE_URL has another role than this command needs."
    return describe_refusal(error)


def describe_refusal(error: DBAPIError) -> str:
    """Return what Postgres refuses, and its hint."""
    if str(getattr(error.orig, "sqlstate", None)) == UNSTORABLE:
        return "text with the character NUL is not allowed; permitted: text without NUL and lone surrogates"
    hint = getattr(getattr(error.orig, "diag", None), "message_hint", None)
    return f"{brief(error)}. {hint}" if hint else brief(error)
