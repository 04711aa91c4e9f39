"""The table of commands, and what its help page costs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from services.cli import app
from services.cli.commands import COMMANDS, build
from training.errors import EXIT_UNEXPECTED, DarkroomError
from training.runs.errors import Interrupted

HEAVY = ("alembic", "boto3", "botocore", "celery", "kfp", "kombu", "psycopg", "rich", "sqlalchemy", "torch")


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], (*HEAVY, "pydantic")),
        (["--version"], (*HEAVY, "pydantic")),
        (["pipeline", "--help"], HEAVY),  # Typer itself may need pydantic for the options of a command
        (["jobs", "submit", "--help"], HEAVY),
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str], heavy: tuple[str, ...]) -> None:
    code = (
        "import sys; sys.argv[:] = ['darkroom', *sys.argv[1:]]\n"
        "from services.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        f"print(sorted({set(heavy)} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(name: str) -> None:
    assert build(name, COMMANDS[name].target).get_short_help_str(200) == COMMANDS[name].help


def test_help_lines_fit_the_page() -> None:
    page = typer.testing.CliRunner().invoke(app, ["--help"], terminal_width=80).stdout
    assert "..." not in page.split("Commands:")[1]


def test_the_version_is_that_of_the_package() -> None:
    done = typer.testing.CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"darkroom {version('darkroom')}\n")


@pytest.mark.parametrize("arguments", [["distil", "x"], ["train", "x", "--name", "x"]], ids=["distil", "train"])
@pytest.mark.parametrize("minutes", ["inf", "nan"])
def test_times_that_are_not_finite_are_usage_errors(arguments: list[str], minutes: str) -> None:
    done = typer.testing.CliRunner().invoke(app, [*arguments, "--minutes", minutes])
    assert done.exit_code == 2
    assert "Invalid value for '--minutes'" in done.stderr


def test_a_misspelt_command_is_a_usage_error_with_a_suggestion() -> None:
    done = typer.testing.CliRunner().invoke(app, ["jobz"])
    assert done.exit_code == 2
    assert "Did you mean 'jobs'?" in done.stderr


def leaves() -> Iterator[tuple[str, Any]]:
    """Every command with its name, hidden old names included."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group)
    for name in group.list_commands(context):
        _, command, _ = group.resolve_command(context, [name])
        yield from leaves_of(name, command)


def leaves_of(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for inner, one in command.commands.items():
        yield from leaves_of(f"{name} {inner}", one)


every_command = pytest.mark.parametrize(("name", "command"), [*leaves()], ids=[name for name, _ in leaves()])


@every_command
def test_every_command_has_help_for_itself_and_its_options(name: str, command: Any) -> None:
    assert command.get_short_help_str(200).endswith(".")
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name} has no help"
    done = typer.testing.CliRunner().invoke(app, [*name.split(), "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.stdout


# These run until they are stopped, or show the progress of minutes.
WITHOUT_JSON = {"worker", "dispatcher", "exporter", "console", "demo", "pipeline run"}


@every_command
def test_every_answer_can_be_had_as_json(name: str, command: Any) -> None:
    options = [option for parameter in command.params for option in parameter.opts]
    assert ("--json" in options) is (name not in WITHOUT_JSON)


def test_completion_shows_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = typer.testing.CliRunner().invoke(app, ["--show-completion", "bash"])
    assert done.exit_code == 0
    assert "complete" in done.stdout


@pytest.mark.parametrize(
    ("words", "completions"), [("darkroom jo", ["jobs"]), ("darkroom jobs sub", ["submit", "submit-many"])]
)
def test_commands_are_completed_without_their_imports(words: str, completions: list[str]) -> None:
    code = (
        "import sys; sys.argv[:] = ['darkroom']\n"
        "from services.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(sorted({set(HEAVY)} & set(sys.modules)))"
    )
    request = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_DARKROOM_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **request}
    )
    assert done.stdout.splitlines() == [*completions, "[]"]


PAGE = Path("docs/commands.md").read_text()


def test_the_page_of_commands_lists_every_command_with_its_help() -> None:
    rows = dict(re.findall(r"^\| `([a-z-][a-z -]*)` \| (.+?) \|", PAGE, re.MULTILINE))
    assert rows == {name: command.get_short_help_str(200) for name, command in leaves() if not command.hidden}
    for name, _ in leaves():
        assert f"`{name}`" in PAGE, "an old name is listed as one"


def test_the_page_of_commands_lists_every_exit_code() -> None:
    from services import errors
    from services.process.watchdog import EXIT_HUNG
    from services.worker.sampling_loop import EXIT_DEVICE

    def all_errors(root: type[DarkroomError]) -> set[type[DarkroomError]]:
        return {root}.union(*map(all_errors, root.__subclasses__()))

    codes = {0, 2, EXIT_UNEXPECTED, EXIT_HUNG, EXIT_DEVICE, *(error.exit_code for error in all_errors(DarkroomError))}
    codes |= {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == codes | {Interrupted.exit_code}
