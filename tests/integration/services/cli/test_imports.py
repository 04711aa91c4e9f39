"""`darkroom import compvis`, run as a person runs it."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from tests.support.commands import Darkroom
from tests.support.stack import Stack
from training.model.interop.compvis.targets import READERS
from training.model.latent_diffusion import load_autoencoder

BLOCK = {
    "target": "ldm.models.autoencoder.VQModel",
    "params": {
        "embed_dim": 3, "n_embed": 16,
        "ddconfig": {
            "double_z": False, "z_channels": 3, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
        },
    },
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    model, names = READERS["VQModel"](BLOCK["params"], {})
    sources, state = dict(names), {}
    for name, tensor in model.state_dict().items():
        prefix, _, leaf = name.rpartition(".")
        if prefix in sources:
            state[f"{sources[prefix].prefix}.{leaf}"] = torch.randn(tensor.shape) * 0.05
    torch.save({"state_dict": state}, tmp_path / "VQ f2.ckpt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": BLOCK}))
    return tmp_path / "VQ f2.ckpt", tmp_path / "config.yaml"


def test_a_checkpoint_becomes_a_release(darkroom: Darkroom, checkpoint: tuple[Path, Path], tmp_path: Path) -> None:
    file, config = checkpoint
    done = darkroom("import", "compvis", str(file), "--config", str(config), "--output", str(tmp_path / "release"))
    assert done.returncode == 0, done.stderr
    assert "vq-f2 (autoencoder)" in done.stdout
    assert "3x16x16" in done.stdout
    model, release = load_autoencoder(tmp_path / "release")
    assert model.config.regularisation == "vq"
    assert release.lineage["imported_from"] == "VQ f2.ckpt"
    assert json.loads((tmp_path / "release" / "release.json").read_text())["latent_shape"] == [3, 8, 8]


def test_mistakes_are_one_line(darkroom_here: Darkroom, checkpoint: tuple[Path, Path], tmp_path: Path) -> None:
    file, config = checkpoint
    full, out = tmp_path / "full", tmp_path / "out"
    full.mkdir()
    (full / "mine.txt").touch()
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(file.read_bytes()[:1000])
    other = tmp_path / "other.yaml"
    other.write_text(config.read_text().replace("n_embed: 16", "n_embed: 17"))
    for arguments, told in (
        ((file, "--config", config, "--output", full), "already exists; give a new or empty folder"),
        ((damaged, "--config", config, "--output", out), "missing or damaged"),
        ((file, "--config", other, "--output", out), "of another shape: quantize.embedding.weight (16, 3)"),
        ((file, "--config", config, "--output", file / "out"), "cannot be written (Not a directory)"),
        ((file, "--config", config, "--output", out, "--name", "My VQ"), "--name: 'My VQ' is not allowed"),
    ):
        done = darkroom_here("import", "compvis", *map(str, arguments))
        assert done.returncode == 1, done
        assert told in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not out.exists()


def test_an_imported_checkpoint_is_published(
    stack: Stack, darkroom_here: Darkroom, checkpoint: tuple[Path, Path], tmp_path: Path
) -> None:
    file, config = checkpoint
    arguments = ["import", "compvis", str(file), "--config", str(config), "--name", "imported"]
    alone = darkroom_here(*arguments, "--output", str(tmp_path / "a"), "--alias", "production")
    assert (alone.returncode, "--alias: needs --publish" in alone.stderr) == (1, True)
    done = darkroom_here(*arguments, "--output", str(tmp_path / "b"), "--publish", "--alias", "candidate")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("imported@1 is published as candidate.\n")
    again = darkroom_here(*arguments, "--output", str(tmp_path / "c"), "--publish", "--json")
    assert json.loads(again.stdout)["published"] == "imported@1"
