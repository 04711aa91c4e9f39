"""The root of Darkroom's errors."""

from typing import ClassVar


class DarkroomError(Exception):
    """Something went wrong that its message explains: what happened, and what to do about it.

    A command prints the message and exits with `exit_code`. Any other exception is a bug.
    """

    exit_code: ClassVar[int] = 1
