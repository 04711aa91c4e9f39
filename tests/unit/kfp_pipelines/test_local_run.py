"""The expected end of a local run: it follows what is measured, says how sure it is, and tells when it moves."""

import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.progress import Progress

from kfp_pipelines import events
from kfp_pipelines.commands.expected_end import ExpectedEnd, describe_margin
from kfp_pipelines.commands.local_run import Display
from kfp_pipelines.commands.planning import seconds_of_files
from training.planning.plan import Options, Plan

EXPECTED = {"prepare-data": 30.0, "train-autoencoder": 300.0, "train-diffusion": 600.0, "publish": 5.0}
TOTAL = sum(EXPECTED.values())


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass on a clock that else stands still."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_the_end_is_the_rest_of_the_task_and_all_later_ones(wait):
    end = ExpectedEnd(EXPECTED)
    assert end.seconds() == TOTAL
    end.begin("prepare-data")
    assert end.seconds() == TOTAL
    wait(30)
    end.begin("train-autoencoder")
    assert end.seconds() == pytest.approx(TOTAL - 30)


def test_a_task_that_tells_its_steps_is_expected_to_keep_its_pace(wait):
    end = ExpectedEnd(EXPECTED)
    end.begin("train-diffusion")
    end.advance(100, 1000)  # resumed: the first step that is seen is no measure
    wait(10)
    end.advance(200, 1000)
    assert end.seconds() == pytest.approx(80 + 5)  # the earlier tasks are cached


def test_later_tasks_are_expected_to_be_as_much_slower_as_those_that_ended(wait):
    end = ExpectedEnd(EXPECTED)
    end.begin("prepare-data")
    wait(30)
    end.begin("train-autoencoder")
    assert end.pace == pytest.approx(1)
    wait(600)  # instead of 300
    end.end_task()
    assert 1.6 < end.pace < 630 / 330
    assert end.seconds() == pytest.approx(605 * end.pace)
    end.begin("train-diffusion")
    assert end.seconds() == pytest.approx(605 * end.pace)


@pytest.mark.parametrize("took", [0.5, 20.0])
def test_a_task_that_was_cached_says_nothing_of_the_machine(wait, took):
    end = ExpectedEnd(EXPECTED)
    end.begin("train-autoencoder")
    wait(took)
    end.begin("train-diffusion")
    assert end.pace == 1
    assert end.seconds() == pytest.approx(605)


def test_the_margin_shrinks_as_steps_keep_their_pace_and_grows_when_they_do_not(wait):
    end = ExpectedEnd(EXPECTED)
    assert end.margin() == pytest.approx(0.25 * TOTAL)
    end.begin("prepare-data")
    wait(30)
    end.begin("train-autoencoder")
    for step in range(0, 1000, 20):
        end.advance(step, 1000)
        wait(6)
    end.begin("train-diffusion")
    confirmed = end.margin()
    for step in range(0, 500, 20):
        end.advance(step, 1000)
        wait(12)
    assert end.margin() < 0.12 * end.seconds() < confirmed
    steady = end.margin()
    for step in range(500, 700, 20):
        end.advance(step, 1000)
        wait(30)
    assert end.margin() > 2 * steady


def test_without_expectations_no_end_is_told():
    end = ExpectedEnd({})
    end.begin("prepare-data")
    assert str(end) == ""
    assert not end.has_moved()


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "a minute"), (80, "a minute"), (100, "2 minutes"), (700, "12 minutes")]
)
def test_a_margin_in_words(seconds, words):
    assert describe_margin(seconds) == f"give or take {words}"


def test_an_end_that_moves_is_announced_again_once(wait):
    out = io.StringIO()
    display = Display(Progress(console=Console(file=out, width=100)), EXPECTED)
    display.show(events.StageStarted("prepare-data"))
    wait(30)
    display.show(events.StageStarted("train-autoencoder"))
    assert "now ends" not in out.getvalue()
    for step in range(0, 201, 10):
        display.show(events.Progress(step, 1000, "loss"))
        wait(9)  # three times as long as expected
    assert out.getvalue().count("now ends about") == 1
    assert "give or take" in out.getvalue()
    assert "train-autoencoder" not in out.getvalue()


def test_the_end_follows_the_steps_of_edited_files(tmp_path):
    (tmp_path / "autoencoder.yaml").write_text("defaults: [digits_autoencoder, _self_]\nsteps: 40\n")
    (tmp_path / "diffusion.yaml").write_text("defaults: [digits_diffusion, _self_]\nsteps: 600\n")
    seconds = {"prepare-data": 30.0, "train-autoencoder": 300.0, "train-diffusion": 600.0}
    plan = Plan(Options("digits", "x", 20), "stamp", 16, 1, "class", 0.05, 400, 1200, 64, 1_000_000, seconds)
    assert seconds_of_files(plan, tmp_path) == {
        "prepare-data": 30.0,
        "train-autoencoder": pytest.approx(30),
        "train-diffusion": pytest.approx(300),
    }
