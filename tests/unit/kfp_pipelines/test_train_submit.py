"""`darkroom train --submit`: what a cluster is asked to run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kfp_pipelines.commands import pipeline
from kfp_pipelines.commands.train import run_on_cluster
from kfp_pipelines.definition.arguments import NO_DEVICES, parse
from training.planning import plan as plans
from training.planning.plan import Options, Plan

CLASSES = ["boot", "Große Schuhe, 靴", "1"]


def test_a_tuned_release_of_some_classes_and_whole_pictures_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options("s3://pictures/flags/", "flags", 40, keep_aspect=True, base="shoes@production")
    plan = Plan(options, "stamp", 32, 3, "class", 0.1, 0, 200, 64, 10**6, {"train-diffusion": 60.0}, bucket_step=8,
                base="shoes@3", classes=CLASSES)  # fmt: skip
    plans.write(tmp_path, plan, {"diffusion.yaml": {"defaults": ["digits_diffusion", "_self_"], "name": "flags"}})
    ran: dict[str, Any] = {}

    class FakeCluster:
        def run(self, package: Any, arguments: dict[str, Any], experiment: str) -> str:
            ran.update(arguments)
            return "run-7"

        def link(self, run_id: str) -> str:
            return f"https://kubeflow/{run_id}"

    def upload(variant: str, pairs: list[str], *_: Any) -> Any:
        package = SimpleNamespace(name=variant, version="1")
        return SimpleNamespace(cluster=FakeCluster(), package=package, arguments=parse(variant, pairs, NO_DEVICES))

    monkeypatch.setattr(pipeline, "upload", upload)
    assert run_on_cluster(plan, tmp_path) == {"run": "run-7", "link": "https://kubeflow/run-7"}
    assert (ran["base"], ran["gate"]) == ("shoes@3", [])
    assert 'data.classes=["boot","Große Schuhe, 靴","1"]' in ran["data_overrides"]
    assert "data.bucket_step=8" in ran["data_overrides"]
    assert "darkroom pipeline status run-7" in capsys.readouterr().out
