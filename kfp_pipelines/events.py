"""The events that a running pipeline reports, one JSON object per line of output.

    {"darkroom": "event", "kind": "message", "text": "published digits@1 as candidate"}

People read these lines in the log of a pod; `darkroom pipeline run` parses them.
"""

import json
from dataclasses import asdict, dataclass
from typing import ClassVar

from training.errors import DarkroomError

MARKER = {"darkroom": "event"}
PREFIX = json.dumps(MARKER)[:-1]


@dataclass(frozen=True)
class StageStarted:
    """A stage began to run."""

    kind: ClassVar[str] = "stage_started"
    stage: str


@dataclass(frozen=True)
class StageFailed:
    """A stage's process exited with an error. Its `StageError`, if it reported one, came before."""

    kind: ClassVar[str] = "stage_failed"
    stage: str


@dataclass(frozen=True)
class Progress:
    """How far a stage is. text: for people, such as the loss and the time left."""

    kind: ClassVar[str] = "progress"
    step: int
    steps: int
    text: str = ""


@dataclass(frozen=True)
class Message:
    """Something that a person who follows the run should read; may have several lines."""

    kind: ClassVar[str] = "message"
    text: str


@dataclass(frozen=True)
class StageError:
    """Why the stage is about to fail."""

    kind: ClassVar[str] = "error"
    message: str

    @classmethod
    def of(cls, error: BaseException) -> "StageError":
        """Return the event of an exception: the message of a DarkroomError, type and message of any other."""
        message = str(error)
        if isinstance(error, DarkroomError) and message:
            return cls(message)
        return cls(f"{type(error).__name__}: {message}" if message else type(error).__name__)


Event = StageStarted | StageFailed | Progress | Message | StageError
KINDS: dict[str, type[Event]] = {
    event.kind: event for event in (StageStarted, StageFailed, Progress, Message, StageError)
}


def emit(event: Event) -> None:
    """Write an event as a line of standard output."""
    print(json.dumps({**MARKER, "kind": event.kind, **asdict(event)}), flush=True)


def parse_event(line: str) -> Event | None:
    """Return the event of a line, or None if the line holds no event."""
    if not line.startswith(PREFIX):
        return None
    try:
        fields = json.loads(line)
        kind = KINDS[fields.pop("kind")]
        return kind(**{name: value for name, value in fields.items() if name not in MARKER})
    except (ValueError, KeyError, TypeError):
        return None
