"""A smoke job that does not finish, or whose images fail, stops a promotion and says why."""

import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from kfp_pipelines.stages import entry, smoke
from kfp_pipelines.stages.smoke import SmokeError
from services.job_requests.schema import Limits, plan_request
from services.registry import releases
from services.registry.releases import request_rules
from tests.support.releases import make_distilled_release, make_tiny_release
from tests.support.stack import Stack
from training.data import image_set
from training.model.release import MANIFEST, read


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 1), dtype=np.uint8)
    records = [{"name": f"{i}", "label": i % 10} for i in range(12)]
    image_set.write(
        tmp_path / "digits", name="digits", images=images, records=records, train_count=8,
        classes=[f"{i}" for i in range(10)],
    )  # fmt: skip
    return tmp_path / "digits"


@pytest.fixture
def release(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DARKROOM_ROOT", str(stack.root))
    folder = make_tiny_release(tmp_path / "release", seed=31, name="smoked")
    with stack.engine("publisher").begin() as connection:
        releases.publish(connection, stack.store(), folder)
    return folder


def test_images_come_through_the_queue(stack: Stack, release: Path, digits: Path, tmp_path: Path) -> None:
    with stack.process("dispatcher"), stack.process("worker"):
        smoke.run(stack.engine("submitter"), stack.store(), "smoked@1", release, 3, digits, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "smoked@1: 3 images through the queue in" in page
    assert "data:image/png;base64," in page


def test_a_distilled_release_is_asked_for_its_own_steps(digits: Path, tmp_path: Path) -> None:
    description = read(make_distilled_release(tmp_path / "student"))
    rules = request_rules(json.loads((tmp_path / "student" / MANIFEST).read_text()))
    plan = plan_request(smoke.make_request(description, digits, 2), rules, Limits(("outputs/default",)))
    assert description.distilled is not None
    assert (plan["steps"], plan["solver"]) == (description.distilled.best_steps, "shortcut")


def test_without_a_worker_the_job_is_cancelled(stack: Stack, release: Path, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SmokeError, match=r"was still submitted after 1 s and was cancelled; does a worker serve the queue"
    ):
        smoke.run(
            stack.engine("submitter"),
            stack.store(),
            "smoked@1",
            release,
            2,
            digits,
            tmp_path / "page.html",
            timeout_s=1,
        )
    with stack.engine("migrator").connect() as connection:
        query = "SELECT id FROM jobs WHERE model = 'smoked@1' ORDER BY id DESC LIMIT 1"
        requested = f"SELECT count(*) FROM cancel_requests WHERE job_id = ({query})"
        assert connection.scalar(text(requested)) == 1


def test_a_job_that_is_rejected_says_why(stack: Stack, release: Path, digits: Path, tmp_path: Path) -> None:
    with stack.process("dispatcher"), pytest.raises(SmokeError, match=r"smoked@9 rejected: .* has no version 9"):
        smoke.run(stack.engine("submitter"), stack.store(), "smoked@9", release, 2, digits, tmp_path / "page.html")


def test_no_job_is_submitted_for_zero_images(tmp_path: Path) -> None:
    entry.run_smoke_job("smoked@1", str(tmp_path), 0, str(tmp_path / "nowhere"), str(tmp_path / "page.html"))
    assert "No smoke job was requested" in (tmp_path / "page.html").read_text()
