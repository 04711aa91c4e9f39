"""What importing does and costs: it reads no setting, connects to nothing and writes nothing; parts need no torch.

One process imports everything, in an order in which each promise can be seen.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kfp_pipelines.running.stage_processes import PRELOADED

PACKAGES = ("services", "training", "kfp_pipelines", "migrations")
# alembic executes these two itself; `__main__` is the command.
EXECUTED = ("migrations/env.py", "services/cli/__main__.py")
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
SAMPLING = ("training.model.sampling", "training.model.interop.compvis", "training.encode_latents")
# Prints what importing modules did, which module loaded each package first, and which asked CUDA for something after
# torch was imported. "torch" among the modules is imported by the watcher itself.
WATCH = """
import builtins, importlib, json, os, socket, subprocess, sys

effects, loaded, asked = [], {}, []
PACKAGES = {"torch", "lightning", "hydra", "kfp", "transformers", "diffusers", "scipy.signal", "matplotlib.pyplot"}


class Environment(type(os.environ)):
    def __getitem__(self, name):
        if name.startswith("DARKROOM_") and by_the_project():
            effects.append(f"{module} reads {name}")
        return super().__getitem__(name)

    def __contains__(self, name):
        if str(name).startswith("DARKROOM_") and by_the_project():
            effects.append(f"{module} reads {name}")
        return super().__contains__(name)


def by_the_project():
    # Called by the project, directly or through a library; what a library does while it is imported is its own.
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(sys.argv[1]) and "site-packages" not in path:
            return True
        if path.startswith("<frozen importlib"):
            return False
        frame = frame.f_back
    return False


def watched(name, function, is_effect=lambda *arguments, **options: True):
    def call(*arguments, **options):
        if is_effect(*arguments, **options) and by_the_project():
            effects.append(f"{module} calls {name}")
        return function(*arguments, **options)

    return call


def writes(file, mode="r", *rest, **options):
    return set(mode) & set("wax+")


os.environ.__class__ = Environment
builtins.open = watched("open", open, writes)
os.mkdir = watched("mkdir", os.mkdir)
socket.socket.connect = watched("connect", socket.socket.connect)
subprocess.Popen.__init__ = watched("Popen", subprocess.Popen.__init__)


def watch_cuda(cuda):
    def asks(name, answer):
        def ask(*given):
            asked.append(f"{module} asks for {name}")
            return answer
        return ask

    cuda.is_available, cuda.device_count = asks("is_available", False), asks("device_count", 0)
    cuda._lazy_init = asks("_lazy_init", None)


for module in sys.argv[2:]:
    before = set(sys.modules)
    imported = importlib.import_module(module)
    loaded.update({package: module for package in PACKAGES & set(sys.modules) - before})
    if module == "torch":
        watch_cuda(imported.cuda)
print(json.dumps({"effects": effects, "loaded": loaded, "asked": asked}))
"""


def modules() -> list[str]:
    paths = (path for package in PACKAGES for path in sorted(Path(package).rglob("*.py")))
    names = [str(path) for path in paths if str(path) not in EXECUTED and "versions" not in path.parts]
    return [name.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".") for name in names]


def watch(project: Path, names: Sequence[str]) -> dict[str, Any]:
    """Import modules one after another in another process, and return what it saw."""
    command = [sys.executable, "-W", "ignore", "-c", WATCH, str(project), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    return watch(Path.cwd(), [*TORCH_FREE, "torch", *SAMPLING, *PRELOADED, *modules()])


def test_importing_every_module_has_no_effect(seen: dict[str, Any]) -> None:
    assert seen["effects"] == []


def test_the_torch_free_parts_load_no_torch(seen: dict[str, Any]) -> None:
    assert set(seen["loaded"]) >= {"torch", "lightning", "hydra", "kfp"}, "whatever loads them later is seen"
    assert [package for package, module in seen["loaded"].items() if module in TORCH_FREE] == []


def test_sampling_and_encoding_load_neither_lightning_nor_hydra_nor_what_only_some_conditions_need(
    seen: dict[str, Any],
) -> None:
    assert [package for package, module in seen["loaded"].items() if module in ("torch", *SAMPLING)] == ["torch"]


def test_a_training_does_not_load_what_lightning_would_without_a_use(seen: dict[str, Any]) -> None:
    """Lightning imports them through torchmetrics, for two seconds of CPU time at each start."""
    needless = ("transformers", "scipy.signal", "matplotlib.pyplot")
    assert seen["loaded"]["lightning"] in PRELOADED
    assert [name for name in needless if seen["loaded"].get(name) in (*TORCH_FREE, *SAMPLING, *PRELOADED)] == []


def test_the_imports_of_the_fork_server_leave_cuda_alone(seen: dict[str, Any]) -> None:
    """CUDA cannot be used in a process whose parent has initialised it; even to count the devices is to do so."""
    assert [line for line in seen["asked"] if line.split()[0] in (*SAMPLING, *PRELOADED)] == []


def test_an_effect_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import types\ncuda = types.SimpleNamespace()\n")
    (tmp_path / "effectful.py").write_text(
        "import os, subprocess, sys\n"
        "import torch\n"
        "os.environ.get('DARKROOM_IMAGE')\n"
        "dict(os.environ)\n"
        "subprocess.run([sys.executable, '-c', ''])\n"
        "torch.cuda.device_count()\n"
        f"open({str(tmp_path / 'written')!r}, 'w').close()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DARKROOM_ROOT", str(tmp_path))
    seen = watch(tmp_path, ["torch", "effectful"])
    assert seen["asked"] == ["effectful asks for device_count"]
    assert seen["loaded"] == {"torch": "torch"}
    effects = " ".join(seen["effects"])
    assert "effectful reads DARKROOM_IMAGE" in effects
    assert "effectful reads DARKROOM_ROOT" in effects
    assert "effectful calls Popen" in effects
    assert "effectful calls open" in effects
