"""`darkroom evaluate`, run as a person runs it."""

import json
from pathlib import Path

import pytest

from tests.support.commands import Darkroom
from tests.support.stack import Stack
from training.data import digits
from training.evaluation.networks import CLASSIFIER
from training.metrics import classifier

pytestmark = pytest.mark.long

FEW = ("--images", "40", "--steps", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, and a classifier that saw them for a moment."""
    root = tmp_path_factory.mktemp("digits")
    classifier.save(classifier.train(digits.prepare(root), steps=5), root / CLASSIFIER)
    return root


def test_a_folder_and_a_published_release_are_scored_alike(
    darkroom: Darkroom, darkroom_here: Darkroom, stack: Stack, tiny_release: Path, data: Path, tmp_path: Path
) -> None:
    done = darkroom("evaluate", str(tiny_release), str(data), "--output", str(tmp_path / "a"), *FEW)
    assert done.returncode == 0, done.stderr
    assert "frechet distance" in done.stdout
    assert "class accuracy" in done.stdout
    for name in ("samples.png", "nearest.png", "metrics.json"):
        assert (tmp_path / "a" / name).is_file()
        assert name in done.stdout
    done = darkroom_here("evaluate", "tiny@production", str(data), "--output", str(tmp_path / "b"), "--json", *FEW)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "a" / "metrics.json").read_text())
    against = ("--against", "tiny@1", "--against-steps", "2")
    done = darkroom_here("evaluate", str(tiny_release), str(data), "--output", str(tmp_path / "c"), *FEW, *against)
    assert done.returncode == 0, done.stderr
    assert "tiny against tiny on digits" in done.stdout
    assert "sliced wasserstein distance" in done.stdout
    assert done.stdout.split()[-2:] == [str(tmp_path / "c" / name) for name in ("comparison.png", "comparison.json")]


def test_mistakes_are_one_message(darkroom_here: Darkroom, stack: Stack, tiny_release: Path, data: Path) -> None:
    for arguments, told in (
        ((str(tiny_release), str(tiny_release)), "holds no image set"),
        (("nobody", str(data)), "no release is called 'nobody'"),
        ((str(data), str(data)), "not a release"),
        ((str(tiny_release), str(data), "--solver", "dim", *FEW), "solver: 'dim' is not known; permitted"),
        ((str(tiny_release), str(data), "--inception", "nowhere.pth"), "inception: nowhere.pth cannot be read"),
    ):
        done = darkroom_here("evaluate", *arguments)
        assert done.returncode == 1, done
        assert told in " ".join(done.stderr.split()), done.stderr
        assert "Traceback" not in done.stderr
