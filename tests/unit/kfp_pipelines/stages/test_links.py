"""What a stage logs is linked with the run of its pipeline."""

import os

import pytest

from kfp_pipelines.stages import entry

UUID = "2c8d1d1c-6a0e-4a86-9a3f-0b1c2d3e4f50"


@pytest.mark.parametrize(
    ("output", "run"),
    [
        (f"/minio/bucket/v2/artifacts/full/{UUID}/train/9{UUID[1:]}/training", UUID),
        ("/here/.darkroom/pipeline/full-2026-11-27-16-00-00-123456/train/training", "full-2026-11-27-16-00-00-123456"),
        ("training", ""),
    ],
    ids=["cluster", "here", "alone"],
)
def test_the_run_is_read_from_the_path_of_an_artifact(output: str, run: str) -> None:
    assert entry.run_of(output) == run


def test_what_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    monkeypatch.delenv("MLFLOW_RUN_CONTEXT", raising=False)
    entry.link_loggers("run-7")
    assert os.environ["WANDB_RUN_GROUP"] == "mine"
    assert os.environ["MLFLOW_RUN_CONTEXT"] == '{"darkroom.pipeline_run": "run-7"}'
    monkeypatch.delenv("MLFLOW_RUN_CONTEXT")
