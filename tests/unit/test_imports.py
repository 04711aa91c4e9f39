"""What importing costs and opens."""

import subprocess
import sys

TORCH_FREE = (
    "services.job_queue.leases",
    "services.dispatcher.dispatcher",
    "services.dispatcher.planner",
    "services.cli",
    "services.registry.releases",
    "training.model.solvers",
    "training.model.spacing",
    "training.model.release",
)
# The modules are imported one after another. Each that loads one of the packages first is printed with it.
LOADED = """
import importlib, sys

for name in sys.argv[1:]:
    before = set(sys.modules)
    importlib.import_module(name)
    for package in sorted({"torch", "lightning", "hydra", "kfp"} & set(sys.modules) - before):
        print(name, "loads", package)
"""


def test_the_torch_free_parts_load_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, *TORCH_FREE], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_sampling_and_encoding_load_neither_lightning_nor_hydra_nor_what_only_some_conditions_need() -> None:
    needless = "{'lightning', 'hydra', 'transformers', 'diffusers'}"
    modules = "training.model.sampling, training.model.interop.compvis, training.encode_latents"
    code = f"import {modules}, sys; print(sorted({needless} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
