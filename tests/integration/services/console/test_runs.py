"""Training runs in the console: their curves and sheets, for operators alone."""

import math
from pathlib import Path

import pytest

from services.console.charts import draw_curve, log_ticks, thin, ticks
from services.console.runs import Run, find_run, find_runs
from tests.support.console import open_console, picture
from tests.support.stack import Stack


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run of three steps with sheets of two of them, the last line of its losses cut off, beside a secret."""
    run = tmp_path / "runs" / "team" / "<digits>"
    (run / "pictures").mkdir(parents=True)
    (run / "losses.csv").write_text("step,loss,flat\n1,8.0,1\n2,0.4,1\n3,0.2,1\n\nx,y,z\n4,0.")
    (run / "config.yaml").write_text("steps: 3\n")
    for step in (1, 3):
        (run / "pictures" / f"step-{step:08d}-samples.png").write_bytes(picture(step))
    (tmp_path / "losses.csv").write_text("secret")
    (tmp_path / "runs" / "team" / "secret.png").write_bytes(picture(9))
    return tmp_path / "runs"


def test_a_run_has_curves_a_slider_over_its_sheets_and_its_settings(stack: Stack, root: Path) -> None:
    console = open_console(stack, is_operator=True, console_runs=root)
    assert "team/&lt;digits&gt;" in console.get("/runs").text
    page = console.get("/runs/team/%3Cdigits%3E").text
    assert page.count("<svg") == 1  # the flat column has no curve
    assert "loss: 0.2 at the last step" in page
    assert 'data-steps="1,3"' in page
    assert "step-00000003-samples.png" in page
    assert "steps: 3" in page
    assert "step-00000001-samples.png" in console.get("/runs/team/%3Cdigits%3E", params={"at": 0}).text
    sheet = console.get("/runs/sheets/step-00000001-samples.png", params={"run": "team/<digits>"})
    assert sheet.content == picture(1)


@pytest.mark.parametrize(
    ("path", "run"),
    [
        ("/runs/..%2F", ""), ("/runs/team/..%2F..", ""), ("/runs/sheets/secret.png", "team"),
        ("/runs/sheets/..%2Fsecret.png", "team/<digits>"), ("/runs/sheets/step-00000001-samples.png", "../runs/team/x"),
        ("/runs/sheets/step-00000002-samples.png", "team/<digits>"),
    ],
)  # fmt: skip
def test_nothing_but_sheets_of_runs_below_the_folder_is_sent(stack: Stack, root: Path, path: str, run: str) -> None:
    console = open_console(stack, is_operator=True, console_runs=root)
    assert console.get(path, params={"run": run} if run else None).status_code == 404


def test_others_see_no_runs(stack: Stack, root: Path) -> None:
    console = open_console(stack, console_runs=root)
    assert "/runs" not in console.get("/jobs").text
    for path in ("/runs", "/runs/team/%3Cdigits%3E"):
        assert console.get(path).status_code == 403


def test_a_run_that_is_no_run_yet_is_left_out(root: Path) -> None:
    (root / "new").mkdir()
    (root / "empty").mkdir()
    (root / "empty" / "losses.csv").write_text("")
    assert {run.name for run in find_runs(root)} == {"team/<digits>", "empty"}
    empty = find_run(root, "empty")
    assert isinstance(empty, Run)
    assert (empty.charts(), empty.sheets()) == ([], {})


def test_curves_are_thinned_by_means_and_leave_out_what_is_not_finite() -> None:
    points = [(float(step), float(step % 2)) for step in range(1000)]
    assert thin(points, 500) == [(step * 2 + 0.5, 0.5) for step in range(500)]
    assert thin([(1, math.nan), (2, math.inf), (3, 4.0)]) == [(3, 4.0)]
    assert draw_curve("loss", []) is None
    falling = draw_curve("loss", [(1, 100.0), (2, 1.0)])
    assert falling is not None
    assert (falling.is_log, falling.path) == (True, "M0.0 0.0L640.0 200.0")


def test_axes_have_round_numbers() -> None:
    assert ticks(100, 20_000) == [5_000, 10_000, 15_000, 20_000]
    assert ticks(0.41, 1.01) == pytest.approx([0.6, 0.8, 1.0])
    assert ticks(3, 3) == [3]
    assert log_ticks(0.05, 0.92) == pytest.approx([0.05, 0.1, 0.2, 0.5])
    assert log_ticks(1e-7, 2) == pytest.approx([10.0**power for power in range(-7, 1)])
