"""The table of commands, and what its help page costs."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version

import pytest
import typer.testing

from services.cli import app
from services.cli.commands import COMMANDS, build

HEAVY = (
    "alembic", "boto3", "botocore", "celery", "kfp", "kombu", "psycopg", "pydantic", "rich", "sqlalchemy", "torch",
)  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["pipeline", "--help"], ["jobs", "submit", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv[:] = ['darkroom', *sys.argv[1:]]\n"
        "from services.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        f"print(sorted({set(HEAVY)} & set(sys.modules)))"
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


def test_a_misspelt_command_is_a_usage_error_with_a_suggestion() -> None:
    done = typer.testing.CliRunner().invoke(app, ["jobz"])
    assert done.exit_code == 2
    assert "Did you mean 'jobs'?" in done.stderr


def leaves() -> Iterator[list[str]]:
    """Every command with its groups, hidden old names included."""
    group = typer.main.get_command(app)
    context = typer.Context(group)
    for name in group.list_commands(context):  # type: ignore[attr-defined]
        _, command, _ = group.resolve_command(context, [name])  # type: ignore[attr-defined]
        for inner in getattr(command, "commands", ()):
            yield [name, inner]
        if not hasattr(command, "commands"):
            yield [name]


@pytest.mark.parametrize("arguments", [*leaves()], ids=" ".join)
def test_every_command_has_help_for_itself_and_its_options(arguments: list[str]) -> None:
    done = typer.testing.CliRunner().invoke(app, [*arguments, "--help"], terminal_width=200)
    assert done.exit_code == 0
    for line in done.stdout.split("Options:")[1].splitlines():
        if line.strip().startswith("--"):
            assert "  " in line.strip(), f"{line.strip()}: an option without help"


WITHOUT_JSON = {
    "worker",
    "dispatcher",
    "exporter",
    "demo",
    "pipeline run",
}  # they run until they are stopped, or for minutes


@pytest.mark.parametrize("arguments", [*leaves()], ids=" ".join)
def test_every_answer_can_be_had_as_json(arguments: list[str]) -> None:
    done = typer.testing.CliRunner().invoke(app, [*arguments, "--help"])
    assert ("--json" in done.stdout) is (" ".join(arguments) not in WITHOUT_JSON)


def test_completion_shows_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = typer.testing.CliRunner().invoke(app, ["--show-completion", "bash"])
    assert done.exit_code == 0
    assert "complete" in done.stdout
