"""A local run reports why a stage failed."""

import os
from pathlib import Path

import pytest

from kfp_pipelines.events import Event, StageStarted
from kfp_pipelines.running import local


def test_a_failed_stage_is_named_with_its_error(tmp_path: Path) -> None:
    events: list[Event] = []
    with pytest.raises(local.PipelineError) as error:
        local.run(
            "full", {"data": "nothing-built-in"}, tmp_path / "root", environment=os.environ, on_event=events.append
        )
    assert [event.stage for event in events if isinstance(event, StageStarted)] == ["prepare-data", "tell-end"]
    message = str(error.value)
    assert message.startswith("prepare-data: ")
    assert "'nothing-built-in'" in message
    assert "digits" in message
    assert "Traceback" not in message
    assert (tmp_path / "root" / "pipeline.log").is_file()
    (report,) = (tmp_path / "root").glob("*/tell-end/report")
    assert "ended: FAILED" in report.read_text()
    assert "Nothing was promoted" in report.read_text()
