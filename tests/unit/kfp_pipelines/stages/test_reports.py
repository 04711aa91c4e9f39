"""How a run ended is told in the words of either backend."""

from pathlib import Path

import pytest

from kfp_pipelines.stages import reports


@pytest.mark.parametrize("state", ["SUCCEEDED", "Succeeded", "COMPLETE"])
def test_a_run_that_succeeded_is_reported_as_such(state: str, tmp_path: Path) -> None:
    """Kubeflow's open-source backend sends COMPLETE, others send SUCCEEDED."""
    reports.end("r1", state, "", "", tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == "# run r1 ended: SUCCEEDED\n"


@pytest.mark.parametrize(
    ("state", "code", "message", "told"),
    [
        ("FAILED", "9", "train-diffusion failed", "FAILED, train-diffusion failed"),
        ("CANCELED", "1", "", "CANCELED, 1"),
        ("FAILED", "", "", "FAILED, the backend gives no reason"),
    ],
)
def test_a_run_that_failed_is_reported_with_its_reason(
    state: str, code: str, message: str, told: str, tmp_path: Path
) -> None:
    reports.end("r1", state, code, message, tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text().startswith(f"# run r1 ended: {told}\n")
