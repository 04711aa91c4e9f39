"""A training command prints one line for an error, and its exit code says of which kind it is."""

from pathlib import Path

import pytest

from training.commands import run_command
from training.errors import DarkroomError
from training.runs.errors import Interrupted


class Mistake(DarkroomError):
    pass


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Mistake("steps: 0 is not allowed"), 2),
        (ValueError("images: too few"), 2),
        (Interrupted("stopped at step 3 of 9, which is saved; run the same command to resume"), 75),
    ],
)
def test_a_mistake_is_its_message_and_a_stopped_run_has_its_own_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: fail(error), mistakes=(ValueError,)) == code
    assert capsys.readouterr().err == f"{error}\n"


def test_success_is_zero_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: None) == 0
    assert capsys.readouterr().err == ""


def test_a_bug_is_one_line_that_names_the_file_of_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: fail(ZeroDivisionError("division\nby zero")), logs=lambda: tmp_path) == 4
    (traceback,) = tmp_path.iterdir()
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("unexpected ZeroDivisionError: division by zero. ")
    assert message.rstrip().endswith(str(traceback))
    assert "in fail" in traceback.read_text()
