"""The notebook of the tour runs, only smaller, and is committed with what it printed and drew."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support.previews import small_previews

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning
NOTEBOOK = Path(__file__).parents[2] / "docs" / "tour.ipynb"
STEPS = '"steps=300"'
MOST_BYTES = 500_000


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with small_previews():
        yield
    torch.set_num_threads(threads)


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def run(cell: str, names: dict[str, Any]) -> None:
    """Run a cell. Its last line is an expression, whose value Jupyter shows: it reads the file of a picture."""
    *statements, last = ast.parse(cell).body
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(statements, []), "tour.ipynb", "exec"), names)
    shown = eval(compile(ast.Expression(last.value), "tour.ipynb", "eval"), names)
    if isinstance(shown, Image.Image):
        shown.load()


def test_its_cells_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = ["".join(cell["source"]) for cell in code_cells()]
    assert sum(STEPS in cell for cell in cells) == 1
    names: dict[str, Any] = {}
    for cell in cells:
        run(cell.replace(STEPS, '"steps=2"'), names)
    assert names["images"].shape == (8, 1, 8, 8)
    assert names["about"].name == "tour"


def test_it_is_committed_with_its_outputs() -> None:
    text = NOTEBOOK.read_text()
    assert len(text) < MOST_BYTES
    assert "/tmp/" not in text
    assert "/home/" not in text
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell["outputs"], "".join(cell["source"])
        assert not [output for output in cell["outputs"] if output["output_type"] == "error"]
    assert text.count('"image/png"') >= 4
