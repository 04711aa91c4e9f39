"""The error of commands, the exit codes that no error has, and how values appear in messages."""

import json
import reprlib
from typing import Any

from training.errors import DarkroomError

# docs/commands.md lists all exit codes.
EXIT_USER_ERROR = 1
EXIT_NOT_SUCCEEDED = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

LONGEST = 60  # characters of a name or a value in a message


def quote_name(field: object) -> str:
    """Return the name of a field for a message, short and printable, whatever a client has sent."""
    name = str(field)
    return name if len(name) <= LONGEST and name.isprintable() else quote(name)


def quote(value: Any) -> str:
    """Return a value for a message, short and printable, whatever a client has sent."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else reprlib.repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


class CommandError(DarkroomError):
    """A command cannot do what was asked; the message says what to do instead."""
