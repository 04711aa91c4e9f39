"""Output of commands: tables for people, JSON for programs."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import typer

GAP = "  "
ANSI_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def print_json(value: Any) -> None:
    """Print a JSON document on one line."""
    typer.echo(json.dumps(value))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns. Nothing is cut, whatever the width of the terminal, so that ids can be copied and piped.

    Without a header only the rows are printed. Cells may contain ANSI styles.
    """
    lines = [list(row) for row in rows]
    if header:
        lines.insert(0, [typer.style(name, bold=True) for name in header])
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
        typer.echo(GAP.join(cells).rstrip())


def print_renamed(old: str, new: str) -> None:
    """Say on standard error that a command has a new name."""
    typer.echo(f"`darkroom {old}` has been renamed to `darkroom {new}`; the old name still works.", err=True)


def _width(cell: str) -> int:
    return len(ANSI_STYLE.sub("", cell))
