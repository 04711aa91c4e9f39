"""The process that stages are forked from."""

import subprocess
import sys

CODE = """
import torch
def initialises(*given):
    raise AssertionError("CUDA was initialised")
torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = initialises
from importlib import import_module
from kfp_pipelines.running.stage_processes import PRELOADED
for name in PRELOADED:
    import_module(name)
assert not torch.cuda.is_initialized()
"""


def test_the_imports_of_the_fork_server_leave_cuda_alone() -> None:
    """CUDA cannot be used in a process whose parent has initialised it; even to count the devices is to do so."""
    subprocess.run([sys.executable, "-c", CODE], check=True)
