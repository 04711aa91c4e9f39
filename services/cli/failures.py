"""Turns errors of commands into one message and an exit code."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from services.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USER_ERROR
from training.disk import describe_file_error
from training.errors import EXIT_UNEXPECTED, DarkroomError, report_unexpected, summarise


def exit_on_sigterm() -> None:
    """End this process at SIGTERM, also as the first process of a container, for which the kernel would ignore it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn every exception into a message on standard error and an exit code.

    A DarkroomError has its own code, and errors of Postgres, S3 and files have 1. Any other exception is a bug: its
    traceback goes to a file that the message names.
    """
    try:
        yield
    except DarkroomError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if message := _database_message(error) or _store_message(error) or describe_file_error(error):
            fail(message)
        _fail_unexpectedly(error)


def fail(message: str, exit_code: int = EXIT_USER_ERROR) -> NoReturn:
    """Print a message, as a line of JSON where this process logs JSON, and exit."""
    if _logs_json():
        import logging

        logging.getLogger("darkroom").error("%s", message)
    else:
        typer.echo(f"{typer.style('error:', fg='red', bold=True)} {_mask_secrets(message)}", err=True)
    sys.exit(exit_code)


def _database_message(error: Exception) -> str | None:
    if "sqlalchemy" not in sys.modules:
        return None
    from services.database.messages import describe_database_error

    return describe_database_error(error)


def _store_message(error: Exception) -> str | None:
    if "botocore" not in sys.modules:
        return None
    from services.storage.messages import describe_store_error

    return describe_store_error(error)


def _fail_unexpectedly(error: Exception) -> NoReturn:
    message = f"unexpected {type(error).__name__}: {summarise(error)}. This is a bug"
    if _logs_json():
        import logging

        logging.getLogger("darkroom").critical("%s", message, exc_info=error)
        sys.exit(EXIT_UNEXPECTED)
    from services.local_stack.state import stack_root

    fail(f"{message}; the traceback is in {report_unexpected(error, stack_root() / 'logs')}", EXIT_UNEXPECTED)


def _mask_secrets(message: str) -> str:
    logs = sys.modules.get("services.observability.logs")
    return message if logs is None else str(logs.mask(message))


def _logs_json() -> bool:
    logs = sys.modules.get("services.observability.logs")  # not imported: this process has not configured its logs
    return logs is not None and bool(logs.logs_json())
