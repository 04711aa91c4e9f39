"""What the Dockerfile puts into the images runs there: as nobody, in a folder that cannot be written, and the slim one
without torch. Docker itself is not needed: its steps are taken one by one.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Process, Stack

# Who may read this Python, wherever it is installed, and write nothing.
AS_NOBODY = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--inh-caps=+dac_read_search",
             "--ambient-caps=+dac_read_search"] if os.geteuid() == 0 else []  # fmt: skip
DOCKERFILE = Path("Dockerfile").read_text()
PACKAGES = ("services", "training", "kfp_pipelines", "migrations")
# What the slim image does not install.
ABSENT = ("torch", "lightning", "hydra", "omegaconf", "kfp", "scipy", "sklearn", "matplotlib", "safetensors",
          "tokenizers", "tensorboard", "transformers", "filelock")  # fmt: skip
WITHOUT = f"import sys\nfor name in {ABSENT!r}:\n    sys.modules[name] = None\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project as `pip install --no-deps .` installs it from exactly the files that the Dockerfile copies."""
    context = tmp_path_factory.mktemp("context")
    target = Path(tempfile.mkdtemp(prefix="darkroom-"))  # pytest's own folders are for nobody to enter
    for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE.split(" AS slim")[0], re.MULTILINE):
        for name in line.split():
            if Path(name).is_dir():
                shutil.copytree(name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(name, context)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir",
         "--disable-pip-version-check", "-w", str(context), str(context)],
        check=True,
    )  # fmt: skip
    (wheel,) = context.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    target.chmod(0o755)
    yield target
    shutil.rmtree(target)


def darkroom(installed: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the slim image's command."""
    folder = installed / "read-only"
    folder.mkdir(mode=0o555, exist_ok=True)
    return subprocess.run(
        [*AS_NOBODY, sys.executable, "-c", f"{WITHOUT}\nfrom services import cli\ncli.main()", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "HOME": "/tmp", **environment},
    )  # fmt: skip


def test_every_file_of_the_packages_is_there(installed: Path) -> None:
    for package in PACKAGES:
        source = {
            str(path) for path in Path(package).rglob("*") if path.is_file() and path.suffix in (".py", ".yaml", ".txt")
        }
        there = {str(path.relative_to(installed)) for path in (installed / package).rglob("*") if path.is_file()}
        assert source <= there
        assert not any("__pycache__" in name for name in there)


def test_both_images_install_the_same_wheel() -> None:
    """Beside it they copy only their own lists of dependencies and of contents."""
    slim, full = DOCKERFILE.split(" AS slim")[1].split(" AS full")
    for part in (slim, full):
        copied = re.findall(r"^COPY (?!requirements/)(.*)", part, re.MULTILINE)
        assert [line for line in copied if "cdx.json" not in line] == ["--from=build /opt/dist/*.whl /opt/dist/"]
        assert "USER 65532:65532" in part
        assert 'ENTRYPOINT ["darkroom"]' in part


def test_the_slim_image_names_the_settings_it_needs(installed: Path) -> None:
    assert "Usage" in darkroom(installed, "--help").stdout
    done = darkroom(installed, "dispatcher", DARKROOM_ROOT="/nowhere")
    assert done.returncode == 1
    assert "DARKROOM_DATABASE_URL: field required" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_slim_image_migrates(installed: Path, stack: Stack) -> None:
    url = stack.settings("migrator").database_url.get_secret_value()
    done = darkroom(installed, "db", "upgrade", DARKROOM_DATABASE_URL=url, DARKROOM_ROOT="/nowhere")
    assert done.returncode == 0, done.stderr
    assert re.search(r"revision \d{4}", done.stdout)


def test_the_slim_image_dispatches(stack: Stack, worker: Process) -> None:
    """It plans, hints and finalizes without torch."""
    with stack.process("dispatcher", before_imports=WITHOUT) as process:
        process.wait_for("serves")
        job_id = stack.submit({"items": [{"class_label": 1}], "steps": 2})
        assert stack.wait(job_id).state == "succeeded"
        assert "Traceback" not in process.log.read_text()
