"""`darkroom distil-decoder`, run as a person runs it; only its training is of two steps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.job_requests.schema import Limits, plan_request
from services.registry import releases
from services.registry.releases import request_rules
from tests.support.commands import Completed, Darkroom
from tests.support.releases import make_tiny_release
from tests.support.stack import Stack
from training.data import digits
from training.evaluation.networks import CLASSIFIER
from training.metrics import classifier
from training.model import release

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # in Lightning
]


@pytest.fixture
def distil(darkroom_here: Darkroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Completed]:
    """Runs the command in a folder of its own, with the digits and a classifier that saw them for a moment."""
    classifier.save(classifier.train(digits.prepare(tmp_path / "digits"), steps=2), tmp_path / "digits" / CLASSIFIER)
    monkeypatch.chdir(tmp_path)
    options = ("--data", str(tmp_path / "digits"), "--steps", "2")
    return lambda *arguments: darkroom_here("distil-decoder", *arguments, *options)


def test_a_release_gets_a_light_decoder_and_is_published(
    distil: Callable[..., Completed], darkroom_here: Darkroom, stack: Stack, tmp_path: Path
) -> None:
    source = make_tiny_release(tmp_path / "source", seed=7, name="tiny-lit")
    done = distil(str(source), "--within", "0.001", "--no-publish")
    assert "full" in done.stdout
    made = tmp_path / "runs" / "tiny-lit-light" / "release"
    scores = release.read(made).metrics["light_decoder"]
    default = "light" if scores["psnr_loss"] <= 0.3 else "full"
    assert (done.returncode == 1) == (scores["psnr_loss"] > 0.001)  # random weights decode as badly as untrained ones
    assert ("refused: the light decoder loses" in done.stderr) == (done.returncode == 1)
    done = distil(str(source), "--within", "0", "--alias", "lit", "--json")
    assert done.returncode == 0, done.stderr
    assert "resuming from step 2 of 2" in done.stderr
    answer = json.loads(done.stdout)
    assert answer["default"] == default
    assert answer["light_decoder"]["operations_ratio"] >= 8
    with stack.engine("publisher").connect() as connection:
        row = releases.find(connection, answer["published"])
        assert releases.find(connection, "tiny-lit@lit") == row
    assert row.manifest["lineage"]["light_decoder"]["teacher"] == release.read(source).digest
    plan = plan_request({"items": [{"class_label": 3}]}, request_rules(row.manifest), Limits(("outputs/default",)))
    assert plan["decoder"] == default
    done = darkroom_here("export", "compvis", str(made), str(tmp_path / "theirs"))
    assert done.returncode == 0, done.stderr
    assert "note: the light decoder is left out; other programs use the full decoder" in done.stderr
    done = darkroom_here("releases", "publish", str(made), "--decoder", "quick")
    assert done.returncode == 1
    assert "decoder: 'quick' is not allowed; permitted: full, light" in done.stderr


def test_mistakes_are_told_before_anything_is_trained(distil: Callable[..., Completed], tmp_path: Path) -> None:
    for arguments, told in (
        (("nobody@production",), "no release is called 'nobody'"),
        ((str(tmp_path),), "not a release"),
    ):
        done = distil(*arguments)
        assert done.returncode != 0
        assert told in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
