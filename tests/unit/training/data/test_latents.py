import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from training import encode_latents
from training.data import latents
from training.data.image_set import DataError, ImageSet
from training.model.autoencoder import Autoencoder
from training.model.latent_diffusion import save_autoencoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    batches = [(torch.randn(k, 2, 4, 4), torch.rand(k, 2, 4, 4)) for k in (3, 3, 1)]
    latents.write(tmp_path, batches, torch.arange(7), data_fingerprint="d" * 64, autoencoder="a" * 64)
    return tmp_path


def test_what_was_written_is_read_through_a_memory_map(folder: Path) -> None:
    torch.manual_seed(0)
    expected = [(torch.randn(k, 2, 4, 4), torch.rand(k, 2, 4, 4)) for k in (3, 3, 1)]
    found = latents.read(folder)
    assert torch.equal(found.moments[:, 0], torch.cat([mean for mean, _ in expected]))
    assert torch.equal(found.moments[:, 1], torch.cat([std for _, std in expected]))
    assert found.labels.tolist() == list(range(7))
    assert found.description == latents.Description(7, (2, 4, 4), "d" * 64, "a" * 64)
    found.moments[0] = 99  # a private copy of the page, never the file
    assert float(latents.read(folder).moments.max()) < 99


def test_labels_and_latents_must_be_as_many(tmp_path: Path) -> None:
    batch = (torch.zeros(3, 2, 4, 4), torch.ones(3, 2, 4, 4))
    with pytest.raises(DataError, match="3 images were encoded, and there are 4 labels"):
        latents.write(tmp_path, [batch], torch.arange(4), data_fingerprint="d", autoencoder="a")


def change(field: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / latents.DESCRIPTION
        path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))

    return damage


def drop_shape(folder: Path) -> None:
    path = folder / latents.DESCRIPTION
    document = json.loads(path.read_text())
    del document["shape"]
    path.write_text(json.dumps(document))


def truncate(folder: Path) -> None:
    content = (folder / latents.MOMENTS).read_bytes()
    (folder / latents.MOMENTS).write_bytes(content[:-100])


def fewer_labels(folder: Path) -> None:
    np.save(folder / latents.LABELS, np.arange(3))


def unfinished(folder: Path) -> None:
    (folder / latents.DESCRIPTION).unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (change("shape", [2, 4, 5]), r"data\.latents: shape: .* says float32 \(7, 2, 2, 4, 5\)"),
        (drop_shape, r"lacks the field 'shape'"),
        (truncate, r"data\.latents: .* is damaged"),
        (fewer_labels, r"data\.latents: count: 3 labels for 7 latents"),
        (unfinished, r"holds no latents .latents\.json is missing"),
    ],
)
def test_damaged_latents_are_refused_with_the_cure(folder: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(folder)
    with pytest.raises(DataError, match=told + r".*; encode them again with python -m training\.encode_latents"):
        latents.read(folder)


@pytest.mark.parametrize("field", ["data_fingerprint", "autoencoder"])
def test_latents_of_something_else_are_refused(folder: Path, field: str) -> None:
    expected = {"data_fingerprint": "d" * 64, "autoencoder": "a" * 64}
    latents.check(latents.read(folder), **expected)
    with pytest.raises(DataError, match=rf"data\.latents: {field}: .*encode them again"):
        latents.check(latents.read(folder), **{**expected, field: "f" * 64})


def test_encoding_writes_scaled_moments_of_the_training_images_only(
    bars: ImageSet, bars_root: Path, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    autoencoder.latent_scale.fill_(3.0)
    release = save_autoencoder(tmp_path / "release", autoencoder, name="first", image_size=16)
    found = latents.read(encode_latents.run(tmp_path / "release", bars_root, tmp_path / "latents"))
    images, labels = bars.split("train")
    with torch.inference_mode():
        posterior = autoencoder.posterior(images)
    torch.testing.assert_close(found.moments[:, 0], posterior.mean * 3, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.moments[:, 1], (0.5 * posterior.logvar).exp() * 3, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.labels, labels)
    latents.check(found, data_fingerprint=bars.description.fingerprint, autoencoder=release.digest)


def test_the_command_tells_mistakes_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encode_latents.main([str(tmp_path), str(tmp_path), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip().endswith("not a release, release.json is missing")
