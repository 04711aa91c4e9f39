"""The commands of the training document run as shown; only smaller."""

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from PIL import Image

from tests.support.previews import small_previews
from training.experiments import compose
from training.metrics import classifier

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning

ROOT = Path(__file__).parents[2]
SMALLER = {
    "training.train": ["steps=2", "batch_size=4", "device=cpu", "pictures_every=9"],
    "training.evaluate": ["--steps", "2", "--images", "40"],
}


@pytest.fixture(autouse=True, scope="module")
def _smaller() -> Iterator[None]:
    with small_previews(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "train", partial(classifier.train, steps=5))
        yield


def commands(document: str) -> list[str]:
    """The commands of training that a document shows."""
    lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.startswith("    python -m training.")]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """60 images with captions."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    records = []
    for i in range(60):
        colour = rng.integers(0, 256, 3)
        Image.fromarray(np.broadcast_to(colour, (70, 66, 3)).astype(np.uint8)).save(folder / f"{i:02d}.png")
        records.append({"file_name": f"{i:02d}.png", "text": f"a picture of {'red' if colour[0] > 127 else 'blue'}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder


@pytest.mark.parametrize(("document", "count"), [("docs/training.md", 4)])
def test_the_commands_run_as_shown(
    document: str, count: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = commands(document)
    assert len(shown) == count
    for command in shown:
        runnable = command.replace("OTHER_IMAGES", str(images)).replace("IMAGES", str(images))
        _, _, module, *arguments = shlex.split(runnable.replace("...", "runs/emoji-autoencoder/release"))
        assert importlib.import_module(module).main([*arguments, *SMALLER.get(module, [])]) == 0, command


def test_every_call_of_a_training_step_exists() -> None:
    (chain,) = re.findall(r"```text\n(.*?)```", (ROOT / "docs/training.md").read_text(encoding="utf-8"), re.DOTALL)
    names = [line.split()[0] for line in chain.splitlines()]
    assert len(names) == 6
    for name in names:
        assert callable(resolve_name(name)), name


def test_the_file_of_one_s_own_composes_as_shown(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/training.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mine.yaml").write_text(shown)
    found = compose.load(str(tmp_path / "mine.yaml"), ["autoencoder=x"])
    assert (found.name, found.steps, found.data.root) == ("mine", 20_000, "/images/mugs")
