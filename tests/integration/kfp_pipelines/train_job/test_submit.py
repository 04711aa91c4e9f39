"""A TrainJob from its stage to its release: the API of Kubernetes is a stub, torchrun and its two ranks are real."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kfp_pipelines.profiles import Profile
from kfp_pipelines.stages import entry
from kfp_pipelines.train_job import submit
from kfp_pipelines.train_job.submit import TrainJobError
from services.settings import load_store
from tests.support import fork_server
from tests.support.stack import Stack
from training.data import image_set
from training.model import release

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # in Lightning
]

OVERRIDES = ["batch_size=8", "device=cpu", "steps=6", "data=images", "data.image_size=32", "pictures_every=100",
             "model.channels=32", "model.multipliers=[1,1]", "model.res_blocks=1", "model.middle_attention=false",
             "loss.adversarial_weight=0", "optimiser.learning_rate=1e-5"]  # fmt: skip
TORCHRUN = f"{fork_server.FORKS}from torch.distributed.run import main; main()"
IMAGE = "images.example/darkroom"
PROFILE = Profile.model_validate({"trainJob": True, "count": 0, "timeout": "5m"})


@dataclass
class Cluster:
    """Custom objects by kind and name. A TrainJob's command runs here, with `ranks` ranks; none runs if `refuse`.

    A command that failed fails alike when it is started again, and is not run for that.
    """

    objects: dict[tuple[str, str], Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    ranks: int = 2
    refuse: str = ""
    refused: tuple[str, ...] = ("trainingruntimes", "trainjobs")
    starts: int = 0
    failures: dict[tuple[str, ...], str] = field(default_factory=dict)

    def start(self, job: Any) -> None:
        self.starts += 1
        trainer = job["spec"]["trainer"]
        torchrun, *rest = trainer["command"]
        assert torchrun == "torchrun"
        arguments = ["--standalone", f"--nproc-per-node={self.ranks}", *rest, *trainer["args"]]
        if tuple(arguments) not in self.failures:
            log = Path(self.environment["TMPDIR"], f"torchrun-{self.starts}.log")
            environment = {**os.environ, **self.environment}
            if fork_server.server(fork_server.TRAINING).start(TORCHRUN, arguments, log, environment).wait():
                self.failures[tuple(arguments)] = log.read_text()[:2000]
        failure = self.failures.get(tuple(arguments))
        kind = "Failed" if failure else "Complete"
        job["status"] = {"conditions": [{"type": kind, "status": "True", "message": failure or "done"}]}


@pytest.fixture
def cluster(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    found = Cluster()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "team"}}],
        "clusters": [{"name": "here", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("DARKROOM_ROOT", str(stack.root))
    monkeypatch.setattr(submit, "POLL_S", 0.1)
    found.environment = {"DARKROOM_ROOT": str(stack.root), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    yield found
    server.shutdown()
    server.server_close()


def handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(cluster.objects.get(self.key()))

        def do_DELETE(self) -> None:
            self.answer(cluster.objects.pop(self.key(), None))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kind = self.path.rsplit("/", 1)[-1]
            if cluster.refuse and kind in cluster.refused:
                self.answer({"kind": "Status", "message": cluster.refuse}, 403)
                return
            if (kind, body["metadata"]["name"]) in cluster.objects:
                self.answer({"kind": "Status", "message": "already exists"}, 409)
                return
            cluster.objects[kind, body["metadata"]["name"]] = body
            if kind == "trainjobs":
                threading.Thread(target=cluster.start, args=[body]).start()
            self.answer(body)

        def key(self) -> tuple[str, str]:
            assert "/namespaces/team/" in self.path
            kind, name = self.path.split("/")[-2:]
            return kind, name

        def answer(self, document: Any, status: int = 200) -> None:
            content = json.dumps(document or {"kind": "Status", "message": "not found"}).encode()
            self.send_response(status if document else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    images = np.repeat(np.repeat(rng.integers(0, 255, (48, 4, 4, 3)), 8, axis=1), 8, axis=2).astype(np.uint8)
    records = [{"name": f"{i}", "label": 0} for i in range(48)]
    image_set.write(root, name="scenes", images=images, records=records, train_count=40)
    return root


def losses(output: Path) -> list[float]:
    return [float(line.split(",")[1]) for line in (output / "losses.csv").read_text().splitlines()[1:]]


def test_two_ranks_train_the_same_model_as_one(stack: Stack, cluster: Cluster, scenes: Path, tmp_path: Path) -> None:
    checkpoints = f"s3://{stack.store().bucket}/checkpoints/jobs"
    inputs = {"data.root": str(scenes)}
    entry.train(
        "shapes_autoencoder", OVERRIDES, inputs, str(tmp_path / "job"), checkpoints, str(tmp_path / "report.html"),
        PROFILE.model_dump_json(),
    )  # fmt: skip
    entry.train("shapes_autoencoder", OVERRIDES, inputs, str(tmp_path / "here"), "")
    assert release.read(tmp_path / "job" / "release").kind == "autoencoder"
    np.testing.assert_allclose(losses(tmp_path / "job"), losses(tmp_path / "here"), rtol=1e-4)
    assert "data:image/png;base64," in (tmp_path / "report.html").read_text()
    assert cluster.objects == {}, "the job and its runtime are removed when they are done"
    assert list(stack.store().keys("train-jobs/darkroom-")) == []
    assert any(key.endswith("run.json") for key in stack.store().keys("checkpoints/jobs"))


def test_a_failed_job_is_reported_and_a_later_attempt_restarts_it(
    stack: Stack, cluster: Cluster, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log of the stage, which Kubeflow keeps, has the ends of the logs of the nodes, whose pods vanish."""
    cluster.ranks = 1
    stage = submit.Stage(
        "shapes_autoencoder", [*OVERRIDES, "model.multipliers=[]"], {"data.root": str(scenes)}, "", IMAGE
    )
    for _ in range(2):
        with pytest.raises(TrainJobError, match=rf"train job {stage.name} failed: Failed (.|\n)*multipliers"):
            submit.run(stage, PROFILE, tmp_path / "out", load_store())
        log = capsys.readouterr().out
        assert f"--- the end of s3://{stack.store().bucket}/train-jobs/{stage.name}/logs/rank-000-" in log
        assert "model.multipliers" in log.partition("--- the end of")[2]
    assert cluster.starts == 2
    assert submit.end_of(cluster.objects["trainjobs", stage.name]) == "Failed"


def test_a_refusal_of_the_cluster_is_reported(cluster: Cluster, scenes: Path, tmp_path: Path) -> None:
    cluster.refuse = "trainjobs is forbidden: User cannot create resource"
    stage = submit.Stage("shapes_autoencoder", OVERRIDES, {"data.root": str(scenes)}, "", IMAGE)
    with pytest.raises(TrainJobError, match=r"the cluster refused it \(403\): trainjobs is forbidden"):
        submit.run(stage, PROFILE, tmp_path / "out", load_store())


def test_a_job_that_was_refused_is_tried_again_with_the_profile_of_now(
    cluster: Cluster, scenes: Path, tmp_path: Path
) -> None:
    """Its runtime, which describes the pods, was left behind."""
    cluster.refuse, cluster.refused = "exceeded quota", ("trainjobs",)
    stage = submit.Stage("shapes_autoencoder", OVERRIDES, {"data.root": str(scenes)}, "", IMAGE)
    for selected in ("large", "small"):
        profile = PROFILE.model_copy(update={"nodeSelector": {"gpu": selected}})
        with pytest.raises(TrainJobError, match="exceeded quota"):
            submit.run(stage, profile, tmp_path / "out", load_store())
        assert f'"nodeSelector": {{"gpu": "{selected}"}}' in json.dumps(cluster.objects["trainingruntimes", stage.name])
