"""The expected end of a local run."""

import time

import pytest

from kfp_pipelines.commands.local_run import ExpectedEnd

EXPECTED = {"prepare-data": 30.0, "train-diffusion": 100.0, "publish": 5.0}


def test_the_end_is_the_rest_of_the_task_and_all_later_ones():
    end = ExpectedEnd(EXPECTED)
    assert end.seconds() == pytest.approx(135)
    end.begin("prepare-data")
    assert end.seconds() == pytest.approx(135, abs=1)
    end.begin("train-diffusion")  # whatever time preparing took
    assert end.seconds() == pytest.approx(105, abs=1)


def test_a_task_that_tells_its_steps_is_expected_to_keep_its_pace(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    end = ExpectedEnd(EXPECTED)
    end.begin("train-diffusion")
    end.advance(100, 1000)  # resumed: the first step that is seen is no measure
    now += 10
    end.advance(200, 1000)
    assert end.seconds() == pytest.approx(80 + 35)


def test_without_expectations_no_end_is_told():
    end = ExpectedEnd({})
    end.begin("prepare-data")
    assert str(end) == ""
