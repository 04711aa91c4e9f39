"""Submitting to Kubeflow: requests conform to its API, and each error is one line."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kfp_server_api
import pytest
import yaml
from typer.testing import CliRunner

from kfp_pipelines.running import data_version
from services.cli import app
from tests.support.kfp_api import FakeKubeflow, Request, serve
from training.errors import DarkroomError

IMAGE = f"images.example/darkroom@sha256:{'0' * 64}"
PARAMETERS = ["full", "diffusion_overrides=steps=7", "diffusion_overrides=seed=2", "smoke_images=2"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubeflow]:
    found = FakeKubeflow()
    listening = serve(found)
    for name, value in {
        "DARKROOM_KFP_HOST": found.url, "DARKROOM_KFP_NAMESPACE": "team", "DARKROOM_KFP_TOKEN": "secret-token",
        "DARKROOM_KFP_PIPELINE_ROOT": "s3://artifacts/kfp", "DARKROOM_S3_BUCKET": "darkroom",
        "DARKROOM_COMMIT": "c" * 40, "DARKROOM_IMAGE": IMAGE, "KF_PIPELINES_ENDPOINT": "", "HOME": "/nonexistent",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield found
    listening.shutdown()
    listening.server_close()


def darkroom(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["pipeline", *arguments])


def conforms(request: Request, model: str) -> Any:
    """The body as the API's own model reads it; it has no field that the model does not know."""
    kind = getattr(kfp_server_api, model)
    assert set(request.body) <= set(kind.attribute_map.values())

    class Response:
        data = json.dumps(request.body)

    return kfp_server_api.ApiClient().deserialize(Response, model)


def sent(server: FakeKubeflow, method: str, path: str) -> list[Request]:
    return [
        request for request in server.requests if (request.method, request.path) == (method, f"/apis/v2beta1/{path}")
    ]


def test_a_pipeline_is_uploaded_under_its_version_and_run(server: FakeKubeflow) -> None:
    done = darkroom("submit", *PARAMETERS, "--json")
    assert done.exit_code == 0, done.output
    (uploaded,) = sent(server, "POST", "pipelines/upload_version")
    assert uploaded.query["name"].startswith("cccccccccccc-")
    assert next(yaml.load_all(uploaded.body, yaml.CSafeLoader))["pipelineInfo"]["name"] == "train-latent-diffusion"
    (request,) = sent(server, "POST", "runs")
    run = conforms(request, "V2beta1Run")
    assert run.pipeline_version_reference.pipeline_version_id == "version-0"
    assert run.runtime_config.pipeline_root == "s3://artifacts/kfp"
    assert run.runtime_config.parameters == {
        "diffusion_overrides": ["steps=7", "seed=2"], "smoke_images": 2, "data_version": "",
        "checkpoints": "s3://darkroom/checkpoints",
    }  # fmt: skip
    assert json.loads(done.stdout) == {
        "run": "run-0", "pipeline": "train-latent-diffusion", "version": uploaded.query["name"],
    }  # fmt: skip
    assert {request.token for request in server.requests} == {"Bearer secret-token"}
    assert "secret-token" not in done.output


def test_an_equal_package_has_the_same_version(server: FakeKubeflow) -> None:
    for _ in range(2):
        assert darkroom("submit", *PARAMETERS).exit_code == 0
    assert len(sent(server, "POST", "pipelines/upload_version")) == 1
    assert len(sent(server, "POST", "experiments")) == 1
    runs = sent(server, "POST", "runs")
    assert len(runs) == 2
    assert runs[0].body == runs[1].body


def test_a_schedule_runs_one_at_a_time(server: FakeKubeflow) -> None:
    done = darkroom("schedule", "0 0 3 * * *", "diffusion", "autoencoder=digits-autoencoder@1")
    assert done.exit_code == 0, done.output
    (request,) = sent(server, "POST", "recurringruns")
    recurring = conforms(request, "V2beta1RecurringRun")
    assert recurring.trigger.cron_schedule.cron == "0 0 3 * * *"
    assert (recurring.max_concurrency, recurring.no_catchup, recurring.mode) == ("1", True, "ENABLE")
    assert recurring.runtime_config.parameters["autoencoder"] == "digits-autoencoder@1"


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("RUNNING", 0), ("FAILED", 3)])
def test_the_state_of_a_run_stage_by_stage(server: FakeKubeflow, state: str, code: int) -> None:
    tasks = [{"display_name": "prepare-data", "state": "SUCCEEDED"}, {"display_name": "gate", "state": state}]
    server.run = {"display_name": "train", "state": state, "run_details": {"task_details": tasks}}
    done = darkroom("status", "run-7", "--json")
    assert done.exit_code == code
    document = json.loads(done.stdout)
    assert (document["run"], document["state"]) == ("run-7", state)
    assert [(stage["stage"], stage["state"]) for stage in document["stages"]] == [
        ("prepare-data", "SUCCEEDED"),
        ("gate", state),
    ]
    assert "gate" in darkroom("status", "run-7").stdout


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the token is missing or has expired: set DARKROOM_KFP_TOKEN"),
        (403, "this login lacks the permission in the namespace 'team'"),
        (404, "is DARKROOM_KFP_HOST the address of the API?"),
        (500, '(500): {"error": "refused"}'),
    ],
)
def test_a_refusal_of_the_api_is_explained(server: FakeKubeflow, status: int, message: str) -> None:
    server.refuse = status
    done = darkroom("submit", *PARAMETERS)
    assert isinstance(done.exception, DarkroomError)
    assert message in str(done.exception)
    assert "secret-token" not in done.output + str(done.exception)


@pytest.mark.parametrize(
    ("name", "value", "arguments", "message"),
    [
        ("DARKROOM_KFP_HOST", "http://127.0.0.1:9", PARAMETERS, "Kubeflow at http://127.0.0.1:9 does not answer"),
        ("DARKROOM_KFP_HOST", "kubeflow.example", PARAMETERS, "DARKROOM_KFP_HOST: permitted: a string that matches"),
        ("DARKROOM_PROFILES", "/none.yaml", PARAMETERS, "profiles: /none.yaml cannot be read"),
        (
            "X",
            "",
            [*PARAMETERS, "--profile", "gpu"],
            "profile: 'gpu' is not defined; defined: none, give a file with --profiles",
        ),
        ("X", "", ["full", "diffusion_overrides=stepss=5"], "stepss: there is no such field; did you mean steps?"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(
    server: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, name: str, value: str, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv(name, value)
    done = darkroom("submit", *arguments)
    assert isinstance(done.exception, DarkroomError)
    assert message in str(done.exception)
    assert server.requests == []


def test_an_image_without_its_digest_is_refused(server: FakeKubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_IMAGE", "darkroom:latest")
    done = darkroom("submit", *PARAMETERS)
    assert "DARKROOM_IMAGE: 'darkroom:latest' is not allowed; permitted: NAME@sha256:DIGEST" in str(done.exception)
    assert server.requests == []


def test_a_cron_of_five_fields_or_out_of_range_is_refused(server: FakeKubeflow) -> None:
    done = darkroom("schedule", "0 3 * * *")
    assert "cron: '0 3 * * *' is not allowed; permitted: six fields, seconds first" in str(done.exception)
    done = darkroom("schedule", "0 0 25 * * *")
    assert "cron: '0 0 25 * * *' is not allowed: hour '25'; permitted: 0 to 23" in str(done.exception)
    assert server.requests == []


DOCUMENT = Path("docs/pipelines.md").read_text()
SHOWN = re.findall(r"^    darkroom pipeline ((?:submit|schedule|status) .*)$", DOCUMENT, re.MULTILINE)
PROFILES = re.findall(r"```yaml\n(default:.*?)```", DOCUMENT, re.DOTALL)


@pytest.mark.parametrize("command", SHOWN, ids=lambda command: command[:30])
def test_the_commands_run_as_shown(
    server: FakeKubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (profiles,) = PROFILES
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles.yaml").write_text(profiles)
    (tmp_path / "my.yaml").write_text("defaults: [celebahq_ldm8, _self_]\nname: mine\n")
    monkeypatch.setattr(data_version, "list_objects", lambda store, uri: [str(uri)])
    server.run = {"display_name": "train", "state": "SUCCEEDED"}
    done = darkroom(*shlex.split(command))
    assert done.exit_code == 0, (done.output, done.exception)
    for request in sent(server, "POST", "runs"):
        parameters = request.body["runtime_config"]["parameters"]
        assert "name: mine" in parameters["diffusion_experiment"], "a file is sent as its text"
        assert parameters["data_version"]
