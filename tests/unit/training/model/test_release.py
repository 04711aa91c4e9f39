import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.model import release
from training.model.autoencoder import Autoencoder
from training.model.conditioners import Conditioners
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.latent_diffusion import (
    UNET_FILE,
    LatentDiffusion,
    load_autoencoder,
    load_diffusion,
    save_autoencoder,
    save_diffusion,
)
from training.model.release import AUTOENCODER_FILE, MANIFEST, ReleaseError, Serve
from training.model.unet import UNet, UNetConfig


@pytest.fixture
def folder(tmp_path: Path, latent_diffusion: LatentDiffusion) -> Path:
    tmp_path.joinpath("card.md").write_text("# tiny\n")
    latent_diffusion.autoencoder.latent_scale.fill_(0.5)
    save_diffusion(tmp_path, latent_diffusion, name="tiny", image_size=16, lineage={"data": "bars"})
    return tmp_path


def test_a_saved_release_is_loaded_unchanged(folder: Path, latent_diffusion: LatentDiffusion) -> None:
    model, description = load_diffusion(folder)
    assert (description.name, description.kind) == ("tiny", "diffusion")
    assert (description.image_shape, description.latent_shape) == ((1, 16, 16), (2, 8, 8))
    assert description.conditions["properties"]["class_label"]["maximum"] == 2
    assert description.lineage == {"data": "bars"}
    assert sorted(description.files) == [
        "autoencoder.safetensors",
        "card.md",
        "conditioners.safetensors",
        "unet.safetensors",
    ]
    assert not model.training
    for name, tensor in latent_diffusion.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_condition_may_have_the_name_of_a_file(folder: Path, latent_diffusion: LatentDiffusion) -> None:
    latent_diffusion.conditioners = Conditioners({"card": latent_diffusion.conditioners["class_label"]})
    save_diffusion(folder, latent_diffusion, name="tiny", image_size=16)
    assert list(load_diffusion(folder)[0].conditioners) == ["card"]


def test_loading_draws_no_random_weights(folder: Path) -> None:
    state = torch.get_rng_state()
    load_diffusion(folder)
    load_autoencoder(folder)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_autoencoder_has_the_same_bytes_in_both_kinds_of_release(
    folder: Path, latent_diffusion: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory
) -> None:
    alone = tmp_path_factory.mktemp("alone")
    save_autoencoder(alone, latent_diffusion.autoencoder, name="first", image_size=16)
    assert (alone / AUTOENCODER_FILE).read_bytes() == (folder / AUTOENCODER_FILE).read_bytes()


def test_the_digest_covers_weights_and_architecture_alone(autoencoder: Autoencoder, tmp_path: Path) -> None:
    one = save_autoencoder(tmp_path / "1", autoencoder, name="one", image_size=16, metrics={"psnr": 1})
    two = save_autoencoder(tmp_path / "2", autoencoder, name="two", image_size=16, lineage={"seed": 2})
    assert one.digest == two.digest
    assert save_autoencoder(tmp_path / "3", autoencoder, name="one", image_size=32).digest != one.digest
    autoencoder.latent_scale.fill_(2.0)
    assert save_autoencoder(tmp_path / "4", autoencoder, name="one", image_size=16).digest != one.digest


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / UNET_FILE).read_bytes())
    content[-1] ^= 1
    (folder / UNET_FILE).write_bytes(content)


def remove(folder: Path) -> None:
    (folder / UNET_FILE).unlink()


def add(folder: Path) -> None:
    (folder / "stray.bin").write_bytes(b"?")


def edit_architecture(folder: Path) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    document["architecture"]["diffusion"]["beta_end"] = 0.5
    (folder / MANIFEST).write_text(json.dumps(document))


def drop_a_field(folder: Path) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    del document["image_shape"]
    (folder / MANIFEST).write_text(json.dumps(document))


def other_format(folder: Path) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**document, "format": 99}))


def not_json(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff\xfe{")


def a_list(folder: Path) -> None:
    (folder / MANIFEST).write_text("[]")


def no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def rewritten(folder: Path) -> None:
    """Record the files as they are, so that only loading can find the defect."""
    document = json.loads((folder / MANIFEST).read_text())
    fields = {k: v for k, v in document.items() if k not in ("format", "digest", "files")}
    release.write(folder, release.Release(**fields))


def truncate(folder: Path) -> None:
    content = (folder / UNET_FILE).read_bytes()
    (folder / UNET_FILE).write_bytes(content[: len(content) // 2])
    rewritten(folder)


def reshape_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / UNET_FILE)
    save_file({**tensors, "conv_out.bias": torch.zeros(7)}, folder / UNET_FILE)
    rewritten(folder)


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / UNET_FILE)
    del tensors["conv_in.bias"]
    save_file(tensors, folder / UNET_FILE)
    rewritten(folder)


def unknown_architecture(folder: Path) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    document["architecture"]["unet"]["rotary"] = True
    (folder / MANIFEST).write_text(json.dumps(document))
    rewritten(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, r"unet\.safetensors: sha256 differs"),
        (remove, r"unet\.safetensors: missing"),
        (add, r"does not list: stray\.bin"),
        (edit_architecture, "the digest does not match"),
        (drop_a_field, "a field is missing or malformed .'image_shape'"),
        (other_format, "format 99 is not known"),
        (not_json, "release.json: not JSON"),
        (a_list, "format None is not known"),
        (no_manifest, "not a release, release.json is missing"),
        (truncate, r"unet\.safetensors: not a readable safetensors file"),
        (reshape_a_tensor, r"unet\.safetensors: the weights do not fit .* size mismatch for conv_out\.bias"),
        (drop_a_tensor, r"unet\.safetensors: the weights do not fit .* Missing key.* \"conv_in\.bias\""),
        (unknown_architecture, "architecture: cannot be built .*rotary"),
    ],
)
def test_a_damaged_release_is_refused_naming_the_file(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    load_diffusion(folder)
    damage(folder)
    with pytest.raises(ReleaseError, match=message) as caught:
        load_diffusion(folder)
    assert "\n" not in str(caught.value)


def test_an_autoencoder_is_not_a_diffusion_release(autoencoder: Autoencoder, tmp_path: Path) -> None:
    save_autoencoder(tmp_path, autoencoder, name="first", image_size=16)
    assert load_autoencoder(tmp_path)[1].kind == "autoencoder"
    with pytest.raises(ReleaseError, match="a release of kind autoencoder; a diffusion release is needed"):
        load_diffusion(tmp_path)


@pytest.mark.parametrize("guided", [True, False])
def test_the_digest_covers_whether_a_release_can_be_guided(
    tmp_path: Path, latent_diffusion: LatentDiffusion, guided: bool
) -> None:
    def trained_with(dropout: float) -> dict[str, object]:
        return {"experiment": {"loss": {"condition_dropout": dropout}}}

    save_diffusion(
        tmp_path, latent_diffusion, name="tiny", image_size=16, guided=guided, lineage=trained_with(0.1 * guided)
    )
    document = json.loads((tmp_path / MANIFEST).read_text())
    assert release.parse(document).guided is guided
    assert release.parse({**document, "lineage": trained_with(0.1 * (not guided))}).guided is guided
    assert release.parse({**document, "lineage": {}}).guided is guided
    with pytest.raises(ReleaseError, match="the digest does not match"):
        release.parse({**document, "conditions": {**document["conditions"], "guided": not guided}})


def test_a_release_without_conditions_cannot_be_guided(autoencoder: Autoencoder, tmp_path: Path) -> None:
    unet = UNet(UNetConfig(2, 2, 32, (1,), 1, ()))
    model = LatentDiffusion(autoencoder, unet, Conditioners(), Diffusion(DiffusionConfig()))
    save_diffusion(tmp_path, model, name="tiny", image_size=16, guided=True)
    description = release.read(tmp_path)
    assert not description.guided
    assert "guided" not in description.conditions


def test_a_release_of_an_earlier_version_keeps_its_digest_and_its_meaning() -> None:
    document = json.loads(Path(__file__).with_name("release_without_guided.json").read_text())
    assert release.parse(document).digest == "456d903306e509da967bcf3addf19f7a328506d3bbe8d5c1d6d11ae3cac666e7"
    assert not release.parse(document).guided
    document["lineage"]["experiment"]["loss"]["condition_dropout"] = 0.1
    assert release.parse(document).guided


@pytest.mark.parametrize(
    ("conditions", "dropout", "guided"),
    [({"label": {}}, 0.1, True), ({"label": {}}, 0.0, False), ({"label": {}}, None, True), ({}, 0.1, False)],
)
def test_without_the_field_the_lineage_decides_whether_a_release_can_be_guided(
    conditions: dict[str, object], dropout: float | None, guided: bool
) -> None:
    lineage = {} if dropout is None else {"experiment": {"loss": {"condition_dropout": dropout}}}
    schema = {"type": "object", "properties": conditions}
    described = release.Release("a", "diffusion", {}, (3, 32, 32), (4, 8, 8), schema, lineage=lineage)
    assert described.guided is guided


def test_a_rule_for_serving_is_part_of_the_digest(folder: Path) -> None:
    plain = release.read(folder)
    ruled = plain.with_rule(Serve("fp32", 8))
    assert plain.serve == Serve(None, None)
    assert release.parse(ruled.to_json()).serve == Serve("fp32", 8)
    assert ruled.with_rule(Serve(rows=4)).serve == Serve("fp32", 4)
    assert plain.with_rule(Serve()) == plain
    assert ruled.digest != plain.digest
    LatentDiffusion.build(ruled.architecture)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"precision": "bf16"}, "serve.precision: 'bf16' is not allowed; permitted: 'fp32'"),
        ({"rows": 1}, "serve.rows: 1 is not allowed; permitted: a number from 2"),
        ({"rows": "8"}, "serve.rows: '8' is not allowed"),
        ({"device": "cpu"}, r"serve: \{'device': 'cpu'\} is not allowed; permitted: precision and rows"),
        ("fp32", "serve: 'fp32' is not allowed"),
    ],
)
def test_a_rule_that_is_not_known_is_refused(folder: Path, rule: object, message: str) -> None:
    plain = release.read(folder)
    with pytest.raises(ReleaseError, match=message):
        replace(plain, architecture={**plain.architecture, "serve": rule}).with_rule(Serve())
