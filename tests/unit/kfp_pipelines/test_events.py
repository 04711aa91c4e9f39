"""Events survive a line of output, and a stage reports its error as one."""

import pytest

from kfp_pipelines.events import Event, Message, Progress, StageError, StageFailed, StageStarted, emit, parse_event
from kfp_pipelines.running.lines import read_event, strip_colours
from kfp_pipelines.stages import entry
from training.errors import DarkroomError


@pytest.mark.parametrize(
    "event",
    [
        StageStarted("prepare-data"),
        StageFailed("gate"),
        Progress(3, 100, "loss 0.5"),
        Message("gate: passed\ngate: psnr >= 3: 4 is >= 3"),
        StageError('steps: 0 is not allowed; permitted: {"1 to 1000"}'),
    ],
)
def test_an_event_is_one_line_that_parses_back(event: Event, capsys: pytest.CaptureFixture[str]) -> None:
    emit(event)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert line.startswith('{"darkroom": "event", "kind": ')
    assert parse_event(line) == event
    assert read_event(f"    {line}") == event, "KFP's runner indents what a stage prints"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        '{"darkroom": "event", "kind": "message"}',
        '{"darkroom": "event", "kind": "unknown", "text": "x"}',
        '{"darkroom": "event", "kind": "message", "text": ',
        '{"darkroom": "other", "kind": "message", "text": "x"}',
        'x {"darkroom": "event", "kind": "message", "text": "x"}',
    ],
)
def test_other_lines_hold_no_event(line: str) -> None:
    assert parse_event(line) is None


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("12:00:00.123 - INFO - Executing task \x1b[96m'train-diffusion'\x1b[0m\n", StageStarted("train-diffusion")),
        (
            "12:00:00 - ERROR - Task \x1b[96m'gate'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m",
            StageFailed("gate"),
        ),
        ("12:00:00 - INFO - Task \x1b[96m'gate'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m", None),
        ("    step 20/100  loss 0.5000  3 s, 12 s to go", Progress(20, 100, "loss 0.5000  3 s, 12 s to go")),
        ("    resuming from step 2 of 6", Message("resuming from step 2 of 6")),
        ("KeyError: 'x'", None),
    ],
)
def test_lines_of_kfp_and_of_training_are_events(line: str, event: Event | None) -> None:
    assert read_event(strip_colours(line)) == event


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DarkroomError("gate: psnr was not measured"), "gate: psnr was not measured"),
        (ValueError("steps must be int"), "ValueError: steps must be int"),
        (KeyError("x"), "KeyError: 'x'"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_a_stage_that_fails_reports_its_error(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @entry.stage
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        fail()
    assert parse_event(capsys.readouterr().out) == StageError(message)
