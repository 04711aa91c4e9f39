"""The tasks whose time a plan foresees are those of the pipeline that it runs."""

from pathlib import Path

import pytest
import yaml

from kfp_pipelines.definition.pipeline import compile_to
from training.planning.budget import Start, Work, stage_seconds
from training.planning.timing import Timings

TIMINGS = Timings(0.2, 0.2, 0.002, 0.001, 0.001, 0.01)


@pytest.mark.parametrize(("variant", "published"), [("full", False), ("diffusion", True)])
def test_every_task_of_the_pipeline_is_foreseen(variant: str, published: bool, tmp_path: Path) -> None:
    compile_to(tmp_path / "pipeline.yaml", variant)
    package = next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))
    parts = [package["root"], *package["components"].values()]
    tasks = {name: task for part in parts if "dag" in part for name, task in part["dag"]["tasks"].items()}
    run = {name for name, task in tasks.items()
           if "executorLabel" in package["components"][task["componentRef"]["name"]]}  # fmt: skip
    work = Work(100, 10, 0.001, Start(1, 2), not published, published)
    assert set(stage_seconds(work, TIMINGS, 100, 200, 64)) == run
