"""`darkroom releases publish` and `fetch`: release folders in and out of the registry."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import text

from services.registry.releases import ReleaseRow, find
from tests.support.commands import Darkroom
from tests.support.releases import make_tiny_release
from tests.support.stack import Stack
from training.model import release as release_format


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_release(tmp_path_factory.mktemp("made") / "release", seed=71, name="handmade")


def row(stack: Stack, reference: str) -> ReleaseRow:
    with stack.engine("publisher").connect() as connection:
        return find(connection, reference)


def test_a_folder_is_published_and_fetched_again(
    stack: Stack, darkroom_here: Darkroom, folder: Path, tmp_path: Path
) -> None:
    done = darkroom_here("releases", "publish", str(folder))
    assert done.returncode == 0, done.stderr
    assert "handmade@1 is published" in done.stdout
    assert "darkroom releases promote handmade@1" in done.stdout, "it has no alias yet"
    again = darkroom_here("releases", "publish", str(folder), "--alias", "production", "--json")
    expected = {"name": "handmade", "version": 1, "digest": row(stack, "handmade@1").digest, "new": False}
    assert json.loads(again.stdout) == {**expected, "alias": "production"}
    assert row(stack, "handmade@production").version == 1
    assert row(stack, "handmade").published_by == "local_publisher"
    assert (
        "handmade@1 already has this content; no new version was made"
        in darkroom_here("releases", "publish", str(folder)).stdout
    )
    copy = tmp_path / "copy"
    done = darkroom_here("releases", "fetch", "handmade", str(copy))
    assert done.returncode == 0, done.stderr
    assert "handmade@1" in done.stdout
    assert release_format.read(copy) == release_format.read(folder)
    assert {path.name for path in copy.parent.iterdir()} == {"copy"}, "nothing is left beside it"


def test_another_name_is_another_release_of_the_same_content(
    stack: Stack, darkroom_here: Darkroom, folder: Path
) -> None:
    done = darkroom_here("releases", "publish", str(folder), "--name", "renamed", "--alias", "candidate")
    assert "renamed@1 is published as candidate" in done.stdout, done.stderr
    assert row(stack, "renamed@candidate").digest == release_format.read(folder).digest
    assert row(stack, "renamed@candidate").manifest["name"] == "renamed"


def test_mistakes_are_one_line_each(stack: Stack, darkroom_here: Darkroom, folder: Path, tmp_path: Path) -> None:
    empty, damaged, broken = tmp_path / "empty", tmp_path / "damaged", tmp_path / "broken"
    empty.mkdir()
    for copy in (damaged, broken):
        shutil.copytree(folder, copy)
    with (damaged / "unet.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    tensors = load_file(broken / "unet.safetensors")
    tensors["conv_in.bias"][0] = torch.nan
    save_file(tensors, broken / "unet.safetensors")
    release_format.write(broken, release_format.read(folder))
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    for arguments, told in (
        (("publish", empty), "not a release, release.json is missing"),
        (("publish", damaged), "unet.safetensors: sha256 differs from release.json"),
        (("publish", broken), "tensor 'conv_in.bias' contains NaN or infinity"),
        (("publish", folder, "--name", "My model"), "name: 'My model' is not allowed; permitted: a lower case letter"),
        (("publish", folder, "--name", "x", "--alias", "v2"), "alias: 'v2' is not allowed; permitted"),
        (("fetch", "handmade@7", tmp_path / "new"), "model: 'handmade' has no version 7"),
        (("fetch", "tiny", full), f"{full} already exists; give a new or empty folder"),
    ):
        done = darkroom_here("releases", *map(str, arguments))
        assert done.returncode == 1, done
        assert told in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    with pytest.raises(Exception, match="no release is called 'x'"):
        row(stack, "x")
    assert not (tmp_path / "new").exists()


def test_releases_are_fetched_into_the_cache_once_before_a_worker_needs_them(
    stack: Stack, darkroom_here: Darkroom, folder: Path, tmp_path: Path
) -> None:
    darkroom_here("releases", "publish", str(folder), "--name", "early", "--alias", "warm")
    cache = {"DARKROOM_CACHE_DIR": str(tmp_path / "cache")}
    first = darkroom_here("releases", "warm", "early@1", "--alias", "warm", "--json", **cache)
    (found,) = json.loads(first.stdout)
    assert (found["name"], found["version"], found["new"]) == ("early", 1, True)
    assert release_format.read(Path(found["path"])).digest == release_format.read(folder).digest
    again = darkroom_here("releases", "warm", "--alias", "warm", **cache)
    assert again.stdout == f"early@1 is already in {found['path']}\n"
    seeded = {"DARKROOM_CACHE_DIR": str(tmp_path / "other"), "DARKROOM_CACHE_SEED": str(tmp_path / "cache")}
    assert "already in" in darkroom_here("releases", "warm", "early@warm", **seeded).stdout
    assert not (tmp_path / "other").exists(), "a release of the seed is read where it is"


def test_a_release_is_published_with_its_own_defaults(stack: Stack, darkroom_here: Darkroom, folder: Path) -> None:
    """They are part of its digest, and requests that are silent have them."""
    arguments = ("releases", "publish", str(folder), "--name", "quick", "--alias", "production")
    refused = darkroom_here(*arguments, "--solver", "magic")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "solver: 'magic' is not allowed; permitted: ddim, ddpm" in refused.stderr
    for version, steps in ((1, "3"), (1, "3"), (2, "5")):
        done = darkroom_here(*arguments, "--solver", "euler", "--steps", steps, "--json")
        assert json.loads(done.stdout)["version"] == version, done.stderr
    assert "steps: 3" in darkroom_here("releases", "show", "quick@1").stdout
    schema = json.loads(darkroom_here("releases", "show", "quick@1", "--schema").stdout)
    assert schema["properties"]["steps"]["default"] == 3
    with stack.process("dispatcher"):
        job_id = stack.submit({"items": [{"class_label": 1}], "guidance_scale": 3}, model="quick@1")
        plan = stack.wait(job_id, "planned") and stack.job(job_id).plan
    assert (plan["solver"], plan["steps"], plan["guidance_scale"]) == ("euler", 3, 3)
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": job_id})


def test_a_release_can_ask_for_precision_and_rows(
    stack: Stack, darkroom_here: Darkroom, folder: Path, tmp_path: Path
) -> None:
    done = darkroom_here(
        "releases", "publish", str(folder), "--name", "ruled", "--precision", "fp32", "--rows", "8", "--json"
    )
    published = row(stack, f"ruled@{json.loads(done.stdout)['version']}")
    assert release_format.parse(published.manifest).serve == release_format.Serve("fp32", 8)
    copy = tmp_path / "copy"
    assert darkroom_here("releases", "fetch", f"ruled@{published.version}", str(copy)).returncode == 0
    assert release_format.read(copy).digest == published.digest
