"""A teacher of every kind of condition is distilled for two steps, and the engine samples its student."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kfp_pipelines.stages.smoke import make_items
from services.job_requests.image_spec import ImageSpec
from services.job_requests.schema import Limits, plan_request
from services.job_requests.strict_json import RequestError
from services.registry.releases import request_rules
from services.worker.engine import Engine
from services.worker.images import Developed
from tests.support.every_condition import CONFIGS, model_of, written
from tests.support.previews import small_previews
from training import train
from training.experiments import compose
from training.experiments.schema import DistillationExperiment
from training.model.autoencoder import Autoencoder
from training.model.latent_diffusion import save_diffusion
from training.model.release import MANIFEST, read
from training.runs import distillation

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning
KINDS: dict[str, tuple[str, ...]] = {**{kind: (kind,) for kind in CONFIGS}, "unconditional": ()}
SPECS = [(8, 1.0), (1, 1.0), (2, 2.5), (4, 4.0), (8, 1.5), (1, 3.0)]


@pytest.fixture(autouse=True, scope="module")
def _small_previews() -> Iterator[None]:
    with small_previews():
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    written(folder)
    return folder


@pytest.fixture(scope="module")
def experiment(images: Path, tmp_path_factory: pytest.TempPathFactory) -> DistillationExperiment:
    file = tmp_path_factory.mktemp("experiment") / "distillation.yaml"
    file.write_text(yaml.safe_dump({"defaults": [{"override /data": "images"}, {"override /recipe": "distillation"}]}))
    given = [
        "name=student", "teacher=x", f"data.root={images}", "data.image_size=16", "data.channels=1", "steps=2",
        "batch_size=4", "device=cpu", "loss.finest=8", "optimiser.learning_rate=1e-3", "pictures_every=100",
    ]  # fmt: skip
    found = compose.load(str(file), given)
    assert isinstance(found, DistillationExperiment)
    return found


def sample(engine: Engine[object], rows: list[tuple[int, ImageSpec, dict[str, Any]]]) -> dict[int, bytes]:
    for _, spec, item in rows:
        engine.add("owner", engine.request(spec, engine.read_conditions(item)))
    done: dict[int, bytes] = {}
    while engine.busy:
        for one in engine.step():
            assert isinstance(one, Developed), one
            assert one.evaluations == one.spec.steps
            done[one.spec.seed] = one.pixels.tobytes()
    return done


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_every_kind_is_served(
    kind: str, experiment: DistillationExperiment, images: Path, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    teacher = save_diffusion(tmp_path / "teacher", model_of(autoencoder, *KINDS[kind]), name="taught", image_size=16)
    output = tmp_path / "student"
    made = train.train(replace(experiment, teacher=str(tmp_path / "teacher"), output=str(output)))
    description = read(made)
    assert description.lineage["teacher"] == teacher.digest
    assert description.distilled is not None
    assert description.distilled.guidance == ((1.0, 4.0) if KINDS[kind] else (1.0, 1.0))

    items = make_items(description, images, len(SPECS))
    scales = [scale if KINDS[kind] else 1.0 for _, scale in SPECS]
    rows = [(i, ImageSpec(i, i, i, steps, "shortcut", scales[i]), items[i]) for i, (steps, _) in enumerate(SPECS)]
    engine = Engine[object](made, rows=4, device="cpu")
    together = sample(engine, rows)
    assert len(set(together.values())) == len(SPECS)
    assert sample(engine, rows[2:3]) == {2: together[2]}

    rules = request_rules(json.loads((made / MANIFEST).read_text()))
    limits = Limits(("outputs/default",))
    plan = plan_request({"items": items[:1]}, rules, limits)
    assert (plan["solver"], plan["steps"]) == ("shortcut", 8)
    assert plan["guidance_scale"] == (distillation.GUIDANCE if KINDS[kind] else 1.0)
    assert plan_request({"items": items[:1], "steps": 2, "guidance_scale": 1.0}, rules, limits)["steps"] == 2
    for wrong in ({"steps": 3}, {"guidance_scale": 4.5}, {"solver": "ddim"}):
        with pytest.raises(RequestError):
            plan_request({"items": items[:1], **wrong}, rules, limits)
