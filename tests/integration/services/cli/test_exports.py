"""`darkroom export`, run as a person runs it."""

import json
from pathlib import Path

import pytest
import torch

from tests.support.commands import Darkroom
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.interop.compvis import writing
from training.model.latent_diffusion import load_autoencoder, save_autoencoder

LICENSE = "Use it well."


@pytest.fixture
def release(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "LICENSE.md").write_text(LICENSE)
    model = Autoencoder(AutoencoderConfig(channels=32, multipliers=(1, 1), res_blocks=1))
    save_autoencoder(tmp_path / "release", model, name="small", image_size=16)
    return tmp_path / "release"


def test_a_release_becomes_a_folder_of_diffusers(darkroom: Darkroom, release: Path, tmp_path: Path) -> None:
    done = darkroom("export", "diffusers", str(release), str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "AutoencoderKL" in done.stdout
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"LICENSE.md", "README.md", "config.json", "diffusion_pytorch_model.safetensors"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["sample_size"] == 16


@pytest.mark.parametrize("layout", ["diffusers", "compvis"])
def test_an_export_is_imported_again(darkroom_here: Darkroom, release: Path, tmp_path: Path, layout: str) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    done = darkroom_here("export", layout, str(release), str(out), "--json")
    assert json.loads(done.stdout) == {"path": str(out), "class": "AutoencoderKL"}, done.stderr
    if layout == "diffusers":
        source = [str(out)]
    else:
        source = [str(out / writing.CHECKPOINT), "--config", str(out / writing.CONFIG), "--latent-scale", "1"]
    done = darkroom_here("import", layout, *source, "--output", str(back), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "autoencoder"
    (first, _), (second, _) = load_autoencoder(release), load_autoencoder(back)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert (back / "LICENSE.md").read_text() == LICENSE, "it travels both ways"


def test_mistakes_are_one_message(darkroom_here: Darkroom, release: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    for source, out, told in (
        (release, tmp_path / "full", "not empty"),
        (release, release / "release.json" / "out", "cannot be written"),
        (tmp_path / "full", tmp_path / "out", "not a release"),
        (tmp_path / "nowhere", tmp_path / "out", "not a release"),
    ):
        done = darkroom_here("export", "diffusers", str(source), str(out))
        assert done.returncode == 1, done
        assert told in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()
