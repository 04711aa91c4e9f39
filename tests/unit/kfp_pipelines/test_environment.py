"""Only entry points read the environment; everything below them is handed its settings."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "kfp_pipelines"
ENTRY_POINTS = ("commands/", "stages/entry.py", "stages/train_node.py", "running/local_process.py")
DEFINITIONS = {
    "build.py": {"environ"},  # functions that only entry points may call
    "running/stage_processes.py": {"environ"},  # gives a process the variables of its stage
}
READERS = {
    "services.settings": {"load", "load_store", "load_database"},
    "services.local_stack.state": {"stack_root"},
    "kfp_pipelines.build": {"image", "commit", "origin_of"},
}
NAMES = {"environ", "getenv"}


def reads_of(source: str) -> set[str]:
    """Return what a module uses that reads the environment."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                found |= {name.name for name in names} & (READERS.get(module, set()) | NAMES)
            case ast.Attribute(value=ast.Name(id="build" | "settings" as module), attr=name):
                full = "kfp_pipelines.build" if module == "build" else "services.settings"
                found |= {name} & READERS[full]
            case ast.Attribute(attr=name) if name in NAMES:
                found.add(name)
            case ast.Call(func=ast.Name(id=name)) if name.endswith("Settings"):
                found.add(name)
    return found


def test_only_entry_points_read_the_environment() -> None:
    modules = [path for path in sorted(PACKAGE.rglob("*.py"))]
    assert len(modules) > 25
    reads = {str(path.relative_to(PACKAGE)): reads_of(path.read_text()) for path in modules}
    assert all(reads[name] for name in ENTRY_POINTS if name.endswith(".py")), "an entry point that reads nothing"
    below = {name: found for name, found in reads.items() if found and not name.startswith(ENTRY_POINTS)}
    assert below == DEFINITIONS


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['X']",
        "import os\nos.getenv('X')",
        "from os import environ",
        "def f():\n    from services.settings import load_store",
        "from services import settings\nsettings.load('publisher')",
        "from kfp_pipelines import build\nbuild.image()",
        "ClusterSettings()",
    ],
)
def test_each_way_of_reading_is_found(source: str) -> None:
    assert reads_of(source)


def test_the_stages_import_under_kfp_s_executor() -> None:
    """Within a stage, `kfp.dsl` has only what components use."""
    environment = {**os.environ, "_KFP_RUNTIME": "true"}
    command = [sys.executable, "-c", "import kfp_pipelines.stages.entry, kfp_pipelines.train_job.submit"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
