"""The local runner tells of failures in a stage's own words, and does not do again what is done."""

from pathlib import Path

import pytest

from kfp_pipelines.running import local


def test_a_failing_stage_is_named_with_its_words(tmp_path: Path) -> None:
    heard: list[str] = []
    with pytest.raises(local.PipelineError) as error:
        local.run("full", {"data": "nothing-built-in"}, tmp_path / "root", on_stage=heard.append)
    assert heard == ["prepare-data", "tell-end"]
    message = str(error.value)
    assert message.startswith("prepare-data: ")
    assert "'nothing-built-in'" in message
    assert "digits" in message
    assert "Traceback" not in message
    assert (tmp_path / "root" / "pipeline.log").is_file()
    (report,) = (tmp_path / "root").glob("*/tell-end/report")
    assert "ended: FAILED" in report.read_text()
    assert "Nothing was promoted" in report.read_text()
