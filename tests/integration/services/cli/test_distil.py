"""`darkroom distil`, run as a person runs it; only its training is of two steps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.cli.distil import publish_student
from services.job_requests.schema import Limits, plan_request
from services.registry import evaluations, releases
from services.registry.releases import request_rules
from tests.support.commands import Darkroom
from tests.support.previews import small_previews
from tests.support.releases import make_distilled_release, make_tiny_release
from tests.support.stack import Stack
from training.data import digits
from training.evaluation.networks import CLASSIFIER
from training.metrics import classifier
from training.planning import distillation as plans
from training.runs import distillation

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # in Lightning
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, and a classifier that saw them for a moment."""
    root = tmp_path_factory.mktemp("digits")
    classifier.save(classifier.train(digits.prepare(root), steps=5), root / CLASSIFIER)
    return root


@pytest.fixture
def distil(
    darkroom_here: Darkroom, stack: Stack, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in a folder of its own, with these images. Returns its code and what it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plans, "choose_steps", lambda config, images, seconds: (2, 0.1))
    monkeypatch.setattr(distillation, "SERVED", (1, 2))  # of which each is evaluated

    def run(release: str, *options: str) -> tuple[int, str, str]:
        with small_previews():
            done = darkroom_here("distil", release, "--data", str(data), "--images", "32", *options)
        return done.returncode, done.stdout, " ".join(done.stderr.split())

    return run


def test_a_release_is_distilled_compared_and_published(
    distil: Callable[..., tuple[int, str, str]], stack: Stack, tmp_path: Path
) -> None:
    given = ("tiny@production", "--name", "tiny-few", "--alias", "few", "--method", "progressive")
    code, _, errors = distil(*given, "--within", "0.001")
    assert code == 1
    assert "refused: its distance to the real images is" in errors
    assert (tmp_path / "runs" / "tiny-few" / "release" / "release.json").is_file()
    assert plans.load(tmp_path / "experiments" / "tiny-few" / plans.FILE).loss.method == "progressive"
    with stack.engine("publisher").connect() as connection, pytest.raises(releases.RegistryError):
        releases.find(connection, "tiny-few@few")
    code, output, errors = distil(*given, "--within", "0", "--json")
    assert code == 0, errors
    assert "resuming from step 2 of 2" in errors
    answer = json.loads(output)
    with stack.engine("publisher").connect() as connection:
        made = releases.find(connection, answer["published"])
        assert releases.find(connection, "tiny-few@few") == made
        (recorded,) = evaluations.list_evaluations(connection, made.id)
        teacher = releases.find(connection, "tiny@production")
    assert made.manifest["lineage"]["teacher"] == teacher.digest
    assert recorded.metrics["frechet_distance"] == min(answer["frechet_distance"].values())
    assert recorded.metrics["release_digest"] == made.digest
    comparison = answer["comparison"]
    assert (comparison["release_digest"], comparison["against_digest"]) == (made.digest, teacher.digest)
    assert comparison["sampling"]["steps"] == answer["best_steps"]
    assert comparison["sampling_against"]["steps"] == 20
    plan = plan_request({"items": [{"class_label": 3}]}, request_rules(made.manifest), Limits(("outputs/default",)))
    assert (plan["steps"], plan["solver"]) == (answer["best_steps"], "shortcut")
    assert (tmp_path / "runs" / "tiny-few" / "evaluation" / "comparison.png").is_file()


def test_a_teacher_that_was_retired_is_told_before_and_after_the_training(
    distil: Callable[..., tuple[int, str, str]], darkroom_here: Darkroom, stack_root: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = make_tiny_release(tmp_path / "brief", seed=5, name="tiny-brief")
    assert darkroom_here("releases", "publish", str(folder)).returncode == 0
    assert darkroom_here("releases", "retire", "tiny-brief@1").returncode == 0
    code, _, errors = distil("tiny-brief@1")
    assert code == 1
    assert "tiny-brief@1 was retired on" in errors
    monkeypatch.setenv("DARKROOM_ROOT", str(stack_root))
    student = make_distilled_release(tmp_path / "student")
    with pytest.raises(releases.RegistryError, match="tiny-brief@1 was retired on"):
        publish_student("tiny-brief@1", student, {}, "few")


def test_mistakes_are_told_before_anything_is_trained(
    distil: Callable[..., tuple[int, str, str]], darkroom_here: Darkroom, tiny_release: Path, tmp_path: Path
) -> None:
    distilled = make_distilled_release(tmp_path / "distilled")
    for arguments, told in (
        ((str(distilled),), "teacher: tiny-distilled is distilled already"),
        ((str(tiny_release), "--name", "Tiny"), "name: 'Tiny' is not allowed; permitted: a lower case letter"),
        (("nobody@production",), "no release is called 'nobody'"),
        ((str(tmp_path),), "not a release"),
    ):
        code, _, errors = distil(*arguments)
        assert code != 0
        assert told in errors, errors
        assert "Traceback" not in errors
    done = darkroom_here("distil", str(tiny_release))
    assert done.returncode == 1
    told = "--data: tiny was trained on images that its release does not name, and no folder in data/ holds that set"
    assert told in " ".join(done.stderr.split())
    assert not (tmp_path / "runs").exists()


def test_a_time_that_does_not_suffice_is_told(
    darkroom_here: Darkroom, tiny_release: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # what was not planned to its end is not taken for a plan
        done = darkroom_here("distil", str(tiny_release), "--data", str(data), "--minutes", "0.001")
        assert done.returncode == 1
        assert "--minutes: 0.001 is not allowed; a step takes" in done.stderr
    assert not (tmp_path / "runs").exists()
