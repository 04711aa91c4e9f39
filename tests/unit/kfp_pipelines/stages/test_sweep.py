"""A sweep chooses the best training."""

import json
from pathlib import Path
from typing import Any

import pytest

from kfp_pipelines.stages import sweep
from kfp_pipelines.stages.gate import GateError


@pytest.fixture
def entries(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Two trainings, each evaluated under two guidance scales."""
    metrics = {("f4", 1): (3.0, 0.5), ("f4", 2): (2.0, 0.8), ("f8", 1): (2.5, 0.9), ("f8", 2): (4.0, 0.95)}
    for (name, scale), (distance, accuracy) in metrics.items():
        document = {"name": name, "image_shape": [3, 32, 32], "latent_shape": [4, 32 // int(name[1]), 8]}
        put(tmp_path / name / "training" / "release" / "release.json", document)
        scores = {
            "frechet_distance": distance, "class_accuracy": accuracy, "sampling": {"guidance": float(scale)},
            "data_fingerprint": "d", "features_digest": "f", "images": 100, "fingerprint": f"{scale}" * 64,
        }  # fmt: skip
        put(tmp_path / name / "evaluation" / f"guidance-{scale}" / "metrics.json", scores)
    return [tmp_path / name / "training" for name in ("f4", "f8")], [tmp_path / n / "evaluation" for n in ("f4", "f8")]


def put(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("by", "name", "guidance"), [("least frechet_distance", "f4", 2.0), ("most class_accuracy", "f8", 2.0)]
)
def test_the_best_training_and_its_guidance(
    entries: tuple[list[Path], list[Path]], tmp_path: Path, by: str, name: str, guidance: float
) -> None:
    best = sweep.choose(by, *entries, tmp_path / "page.html")
    assert best.training.parent.name == name
    assert best.scores["sampling"]["guidance"] == guidance
    page = (tmp_path / "page.html").read_text()
    assert f"<th>1. {name}, factor {name[1]}, guidance {guidance:g}</th>" in page
    sweep.copy_entry(best, tmp_path / "best", tmp_path / "scores")
    assert json.loads((tmp_path / "best" / "release" / "release.json").read_text())["name"] == name
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text()) == best.scores


@pytest.mark.parametrize("by", ["frechet_distance", "fewest frechet_distance", "least", "least psnr"])
def test_a_wrong_criterion_is_refused(entries: tuple[list[Path], list[Path]], tmp_path: Path, by: str) -> None:
    with pytest.raises(GateError):
        sweep.choose(by, *entries, tmp_path / "page.html")


def test_evaluations_on_different_images_are_refused(entries: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    path = entries[1][0] / "guidance-1" / "metrics.json"
    put(path, {**json.loads(path.read_text()), "data_fingerprint": "other"})
    with pytest.raises(GateError, match="are not comparable"):
        sweep.choose("least frechet_distance", *entries, tmp_path / "page.html")
