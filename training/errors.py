"""The root of Darkroom's errors, and the report of unexpected ones."""

import re
from pathlib import Path
from typing import ClassVar

PYDANTIC = (
    (r"^Value error, ", ""),
    (r"^Input should be (.+?)(, unable to .+)?$", r"permitted: \1"),
    (r"^String should match pattern '(.+)'$", r"permitted: a string that matches \1"),
    (r"^\w+ should have (.+?)( after validation)?(, not .+)?$", r"permitted: \1"),
)
EXIT_UNEXPECTED = 4  # a bug; docs/commands.md lists all exit codes


class DarkroomError(Exception):
    """Something went wrong that its message explains: what happened, and what to do about it.

    A command prints the message and exits with `exit_code`. Any other exception is a bug.
    """

    exit_code: ClassVar[int] = 1


def describe_permitted(message: str) -> str:
    """Return a message of pydantic in the words of Darkroom's errors, such as `permitted: a valid integer`."""
    for pattern, words in PYDANTIC:
        message = re.sub(pattern, words, message)
    return message


def report_unexpected(error: BaseException, folder: Path | None = None) -> Path:
    """Write the traceback of an unexpected exception to a file that only its owner can read, and return its path.

    The file is stored in `folder`, or in the temporary folder if that is None or cannot be written.
    """
    import tempfile
    import traceback

    lines = "".join(traceback.format_exception(error))
    for place in (folder, Path(tempfile.gettempdir())):
        if place is None:
            continue
        try:
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", prefix="darkroom-error-", suffix=".txt", dir=place, delete=False
            ) as file:
                file.write(lines)
        except OSError:
            continue
        return Path(file.name)
    return Path("/dev/null")


def summarise(error: BaseException, limit: int = 200) -> str:
    """Return the message of an exception on one line of at most `limit` characters, or its type if it has none."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if it has none.

    For libraries whose messages continue with advice, a statement or a stack.
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
