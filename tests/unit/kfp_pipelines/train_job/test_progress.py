"""A TrainJob's first rank reports how far it is, and no report can stop the training."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from kubeflow_trainer_api import models

from kfp_pipelines.train_job.progress import StatusServer, report_progress, status_of

Posted = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def trainer() -> Iterator[tuple[str, Posted]]:
    """The address of a Trainer, and what was posted there: the token and the document."""
    posted: Posted = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            posted.append((self.headers["Authorization"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/status", posted
    server.shutdown()
    server.server_close()


def environment(url: str, token: Path) -> dict[str, str]:
    return {"KUBEFLOW_TRAINER_SERVER_URL": url, "KUBEFLOW_TRAINER_SERVER_TOKEN": str(token)}


def test_progress_is_reported_while_it_trains_and_at_the_end(trainer: tuple[str, Posted], tmp_path: Path) -> None:
    url, posted = trainer
    (tmp_path / "token").write_text("first")
    (tmp_path / "config.yaml").write_text("steps: 200")
    with report_progress(StatusServer.of(environment(url, tmp_path / "token")), tmp_path, 0.02):
        (tmp_path / "losses.csv").write_text("step,loss\n49,0.9\n50,0.51234\n")
        deadline = time.monotonic() + 20
        while not posted and time.monotonic() < deadline:
            time.sleep(0.01)
        (tmp_path / "token").write_text("second")
        (tmp_path / "losses.csv").write_text("step,loss\n50,0.5\n200,0.25\n")
    (token, document), (last_token, last) = posted[0], posted[-1]
    assert (token, last_token) == ("Bearer first", "Bearer second"), "the token changes"
    assert document["trainerStatus"]["progressPercentage"] == 25
    assert {"name": "loss", "value": "0.5123"} in document["trainerStatus"]["metrics"]
    assert last["trainerStatus"]["progressPercentage"] == 100
    for _, one in posted:
        assert models.TrainerV1alpha1UpdateTrainJobStatusRequest.from_dict(one) is not None


def test_a_trainer_that_does_not_answer_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    (tmp_path / "config.yaml").write_text("steps: 2")
    (tmp_path / "losses.csv").write_text("step,loss\n1,0.5\n")
    with report_progress(StatusServer.of(environment("http://127.0.0.1:9", tmp_path / "token")), tmp_path, 0.01):
        time.sleep(0.05)
    with report_progress(StatusServer.of({}), tmp_path):
        pass


def test_the_rest_is_estimated_by_the_steps_of_this_attempt() -> None:
    assert status_of(50, 200, 0.5, 10, 20.0)["estimatedRemainingSeconds"] == 300
    assert "estimatedRemainingSeconds" not in status_of(50, 200, 0.5, 0, 20.0)
