"""The edge of the `python -m training.*` commands: maps errors to messages and exit codes."""

import sys
from collections.abc import Callable
from pathlib import Path

from training.disk import describe_file_error
from training.errors import EXIT_UNEXPECTED, DarkroomError, report_unexpected, summarise

EXIT_MISTAKE = 2  # as argparse exits


def exit_code_of(error: DarkroomError) -> int:
    """Return the error's own exit code, or 2 if it has none."""
    return EXIT_MISTAKE if error.exit_code == DarkroomError.exit_code else error.exit_code


def run_command(
    command: Callable[[], None],
    *,
    mistakes: tuple[type[Exception], ...] = (),
    logs: Callable[[], Path | None] = lambda: None,
) -> int:
    """Run a command and return its exit code.

    A DarkroomError is a single line on standard error; the code is the error's own, or 2 if it has none. So are the
    other exceptions in `mistakes`, a full disk and a path that cannot be used. Any other exception is a bug: its
    traceback is written to a file in the folder that `logs` returns, or in the temporary folder, and the code is 4.
    """
    try:
        command()
    except DarkroomError as error:
        print(error, file=sys.stderr)
        return exit_code_of(error)
    except mistakes as error:
        print(error, file=sys.stderr)
        return EXIT_MISTAKE
    except Exception as error:
        if message := describe_file_error(error):
            print(message, file=sys.stderr)
            return EXIT_MISTAKE
        path = report_unexpected(error, logs())
        print(f"unexpected {type(error).__name__}: {summarise(error)}. This is a bug; the traceback is in {path}",
              file=sys.stderr)  # fmt: skip
        return EXIT_UNEXPECTED
    return 0
