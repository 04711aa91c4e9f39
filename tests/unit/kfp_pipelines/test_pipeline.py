"""The pipeline compiles to what a cluster expects, and the local runner tells of failures in a stage's own words."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from kfp_pipelines import components, local
from kfp_pipelines.pipeline import compile_to


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("package") / "pipeline.yaml"
    compile_to(path)
    return yaml.safe_load(path.read_text())  # type: ignore[no-any-return]


def test_it_is_a_pipeline_spec(package: dict[str, Any]) -> None:
    spec = json_format.ParseDict(package, pipeline_spec_pb2.PipelineSpec())
    assert spec.pipeline_info.name == "train-latent-diffusion"
    json_format.ParseDict(package["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())


def test_stages_depend_on_each_other_as_designed(package: dict[str, Any]) -> None:
    tasks = package["root"]["dag"]["tasks"]
    after = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    assert after["train-autoencoder"] == {"prepare-data"}
    assert after["encode-latents"] == {"prepare-data", "train-autoencoder"}
    assert {"encode-latents", "train-autoencoder"} <= after["train-diffusion"]
    # Nothing is published before both models are scored.
    assert "evaluate-2" in after["publish"]
    assert "evaluate-2" in after["publish-2"]


def test_every_stage_runs_on_the_project_image_and_installs_nothing(package: dict[str, Any]) -> None:
    executors = package["deploymentSpec"]["executors"]
    assert len(executors) == 8
    for executor in executors.values():
        assert executor["container"]["image"] == components.IMAGE
        text = " ".join(executor["container"]["command"] + executor["container"]["args"])
        assert "pip install" not in text


def test_compiling_again_gives_the_same_package(package: dict[str, Any], tmp_path: Path) -> None:
    compile_to(tmp_path / "again.yaml")
    assert yaml.safe_load((tmp_path / "again.yaml").read_text()) == package


def test_a_failing_stage_is_named_with_its_words(tmp_path: Path) -> None:
    heard: list[str] = []
    with pytest.raises(local.PipelineError) as error:
        local.run({"data": "nothing-built-in"}, tmp_path / "root", on_stage=heard.append)
    assert heard == ["prepare-data"]
    message = str(error.value)
    assert message.startswith("prepare-data: ")
    assert "'nothing-built-in'" in message
    assert "digits" in message
    assert "Traceback" not in message
    assert (tmp_path / "root" / "pipeline.log").is_file()
