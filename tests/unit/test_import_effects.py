"""Importing a module reads no setting, connects to nothing and writes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("services", "training", "kfp_pipelines", "migrations")
# alembic executes these two itself; `__main__` is the command.
EXECUTED = ("migrations/env.py", "services/cli/__main__.py")
WATCH = """
import builtins, importlib, os, socket, subprocess, sys

effects = []


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
for module in sys.argv[2:]:
    importlib.import_module(module)
print("\\n".join(effects))
"""


def modules() -> list[str]:
    paths = (path for package in PACKAGES for path in sorted(Path(package).rglob("*.py")))
    names = [str(path) for path in paths if str(path) not in EXECUTED and "versions" not in path.parts]
    return [name.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".") for name in names]


def effects(project: Path, *names: str) -> list[str]:
    command = [sys.executable, "-W", "ignore", "-c", WATCH, str(project), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_importing_every_module_has_no_effect() -> None:
    assert [line for line in effects(Path.cwd(), *modules()) if line] == []


def test_an_effect_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "effectful.py").write_text(
        "import os, subprocess, sys\n"
        "os.environ.get('DARKROOM_IMAGE')\n"
        "dict(os.environ)\n"
        "subprocess.run([sys.executable, '-c', ''])\n"
        f"open({str(tmp_path / 'written')!r}, 'w').close()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DARKROOM_ROOT", str(tmp_path))
    seen = " ".join(effects(tmp_path, "effectful"))
    assert "effectful reads DARKROOM_IMAGE" in seen
    assert "effectful reads DARKROOM_ROOT" in seen
    assert "effectful calls Popen" in seen
    assert "effectful calls open" in seen
