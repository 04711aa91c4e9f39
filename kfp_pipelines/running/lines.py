"""Reads the output of a local run as events.

Stages write events themselves (see `kfp_pipelines.events`). Two programs write only lines for people, and this is the
one place that parses them: KFP's local runner, which alone knows when a task starts and fails, and training, which
prints its steps.
"""

import re

from kfp_pipelines.events import Event, Message, Progress, StageFailed, StageStarted, parse_event

ANSI = re.compile(r"\x1b\[[0-9;]*m")
TASK_STARTED = re.compile(r"Executing task '(?P<name>[^']+)'")
TASK_FAILED = re.compile(r"Task '(?P<name>[^']+)' finished with status FAILURE")
STEP = re.compile(r"step\s+(?P<step>\d+)\s*/\s*(?P<steps>\d+)\s*(?P<text>.*)")
RESUMED = re.compile(r"resuming from step \d+ of \d+.*")


def strip_colours(line: str) -> str:
    """Return a line without its end and without terminal colours."""
    return ANSI.sub("", line.rstrip())


def read_event(line: str) -> Event | None:
    """Return the event that a line of a local run reports, or None."""
    text = line.strip()  # KFP's runner indents what a stage prints
    if (event := parse_event(text)) is not None:
        return event
    if match := TASK_STARTED.search(text):
        return StageStarted(match["name"])
    if match := TASK_FAILED.search(text):
        return StageFailed(match["name"])
    if match := RESUMED.fullmatch(text):
        return Message(text)
    if match := STEP.search(text):
        return Progress(int(match["step"]), int(match["steps"]), match["text"])
    return None
