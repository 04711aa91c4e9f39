"""The root of Darkroom's errors, and how values appear in their messages."""

import reprlib
from typing import Any

from training.errors import DarkroomError


def named(field: object) -> str:
    """A field's name in an error: short and printable, whatever was sent."""
    name = str(field)
    return name if len(name) <= 60 and name.isprintable() else shown(name)


def shown(value: Any) -> str:
    """A value in an error: short and printable, whatever was sent."""
    text = reprlib.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Exit codes of `darkroom` that no exception class has; docs/commands.md lists all.
EXIT_USER_ERROR = 1
EXIT_NOT_SUCCEEDED = 3
EXIT_BUG = 4
EXIT_INTERRUPTED = 130


class CommandError(DarkroomError):
    """A command cannot do what was asked; the message says what to do instead."""
