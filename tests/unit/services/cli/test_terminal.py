"""Tables are aligned and never cut."""

import pytest
import typer

from services.cli.terminal import print_table


def test_columns_are_aligned_whatever_their_style(capsys: pytest.CaptureFixture[str]) -> None:
    print_table((), [("a", typer.style("ok", fg="green"), "x"), ("long name", "FAILED", "y")])
    lines = [line.replace("\x1b[32m", "").replace("\x1b[0m", "") for line in capsys.readouterr().out.splitlines()]
    assert lines == ["a          ok      x", "long name  FAILED  y"]


def test_an_id_is_whole_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    job_id = "0199ab12-7c3e-7f00-8a11-2f5d3f0c9e77"
    print_table(("job", "reason"), [(job_id, "x" * 100)])
    assert job_id in capsys.readouterr().out


def test_a_table_without_rows_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("job", "state"), [])
    print_table((), [])
    assert capsys.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", "") == "job  state\n"
