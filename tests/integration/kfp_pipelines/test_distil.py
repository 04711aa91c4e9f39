"""The stages of the pipeline `distil`, called as its components call them; only its training is of two steps."""

from pathlib import Path

import pytest

from kfp_pipelines.stages import entry
from services.registry import evaluations, releases
from tests.support.commands import Darkroom
from tests.support.previews import small_previews
from tests.support.releases import make_distilled_release
from tests.support.stack import Stack
from training.data import digits
from training.evaluation.networks import CLASSIFIER
from training.experiments.schema import ExperimentError
from training.metrics import classifier
from training.model.release import parse
from training.runs import distillation

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # in Lightning
]
SMALL = ["name=tiny-piped", "steps=2", "batch_size=8", "loss.finest=8", "loss.method=progressive"]


@pytest.fixture
def images(tmp_path: Path) -> str:
    """The digits, with a classifier that saw them for a moment."""
    root = tmp_path / "images"
    classifier.save(classifier.train(digits.prepare(root), steps=5), root / CLASSIFIER)
    return str(root)


def test_a_student_is_trained_judged_and_published(
    stack: Stack, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_ROOT", str(stack.root))
    monkeypatch.setattr(distillation, "SERVED", (1, 2))  # of which each is evaluated

    def at(name: str) -> str:
        return str(tmp_path / name)

    assert entry.fetch_release("tiny@production", "teacher", at("teacher")) == "tiny@1"
    inputs = {"data.root": images, "teacher": at("teacher/release")}
    with small_previews():
        entry.train("digits_distillation", SMALL, inputs, at("training"), "", at("training.html"))
    folders = at("training"), at("teacher"), images, at("student"), at("evaluation")
    scores = entry.evaluate_student(*folders, ["images=32"], at("evaluation.html"))
    page = Path(at("evaluation.html")).read_text()
    assert "evaluations against tiny" in page
    assert page.count("data:image/png") == 3
    verdicts = {
        limit: entry.compare(
            [f"frechet_distance <= {limit} * teacher"], "piped", images, at("evaluation"), at(limit), at(f"{limit}.md")
        )
        for limit in ("0.001", "1000")
    }
    assert verdicts == {"0.001": "refused", "1000": "passed"}
    assert entry.publish(at("student"), at("evaluation"), "candidate", "run-7") == "tiny-piped@1"
    entry.promote("tiny-piped@1", "", "piped", at("1000"))
    with stack.engine("publisher").connect() as connection:
        made = releases.find(connection, "tiny-piped@piped")
        (recorded,) = evaluations.list_evaluations(connection, made.id)
        teacher = releases.find(connection, "tiny@production")
    assert made.manifest["lineage"]["teacher"] == teacher.digest
    assert recorded.metrics["release_digest"] == made.digest
    assert recorded.metrics["teacher"]["release_digest"] == teacher.digest
    assert recorded.metrics["frechet_distance"] == scores["frechet_distance"]
    served = parse(made.manifest).distilled
    assert served is not None
    assert recorded.metrics["sampling"]["steps"] == served.best_steps


def test_a_teacher_that_cannot_be_distilled_is_told_before_anything_runs(
    darkroom_here: Darkroom, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stack.engine("publisher").begin() as connection:
        releases.publish(connection, stack.store(), make_distilled_release(tmp_path / "student"))
    done = darkroom_here("pipeline", "run", "distil", "teacher=tiny-distilled@1")
    assert done.returncode == 1
    assert "teacher: tiny-distilled is distilled already" in " ".join(done.stderr.split())
    monkeypatch.setenv("DARKROOM_ROOT", str(stack.root))
    with pytest.raises(ExperimentError, match="teacher: tiny-distilled is distilled already"):
        entry.fetch_release("tiny-distilled@1", "teacher", str(tmp_path / "teacher"))
    assert not (tmp_path / "teacher").exists()
