"""What importing costs and opens."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "services.job_queue.leases",
        "services.dispatcher.dispatcher",
        "services.dispatcher.planner",
        "services.cli",
        "services.registry.releases",
        "training.model.solvers",
        "training.model.spacing",
        "training.model.release",
    ],
)
def test_the_torch_free_parts_load_no_torch(module: str) -> None:
    code = f"import {module}, sys; print(sorted({{'torch', 'lightning', 'hydra', 'kfp'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sampling_and_encoding_load_neither_lightning_nor_hydra_nor_what_only_some_conditions_need() -> None:
    needless = "{'lightning', 'hydra', 'transformers', 'diffusers'}"
    modules = "training.model.sampling, training.model.interop.compvis, training.encode_latents"
    code = f"import {modules}, sys; print(sorted({needless} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
