"""Latents on disk: what was encoded is read, of mirrored images too, and what does not fit is named."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.small_disk import small_disk
from training import encode_latents
from training.data import encoding, image_set, latents
from training.data.image_set import DataError, ImageSet
from training.data.locks import lock_folder
from training.model.autoencoder import Autoencoder
from training.model.latent_diffusion import save_autoencoder

AGAIN = r"; encode them again with python -m training\.encode_latents$"


def encoded(flips: int = 1) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(k, flips, 2, 4, 4), torch.rand(k, flips, 2, 4, 4)) for k in (3, 3, 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    latents.write(tmp_path / "latents", encoded(), count=7, data_fingerprint="d" * 64, autoencoder="a" * 64)
    return tmp_path / "latents"


@pytest.mark.parametrize("flips", [1, 2])
def test_what_was_written_is_read_through_a_memory_map(flips: int, tmp_path: Path) -> None:
    batches = encoded(flips)
    written = latents.write(tmp_path, iter(batches), count=7, data_fingerprint="d" * 64, autoencoder="a" * 64)
    found = latents.read(tmp_path)
    assert torch.equal(found.moments[:, :, 0], torch.cat([mean for mean, _ in batches]))
    assert torch.equal(found.moments[:, :, 1], torch.cat([std for _, std in batches]))
    assert found.moments.shape == (7, flips, 2, 2, 4, 4)
    assert found.description == written.description
    assert found.description == latents.Description(7, (2, 4, 4), "d" * 64, "a" * 64, flips)
    found.moments[0] = 99  # a private copy of the page, never the file
    assert float(latents.read(tmp_path).moments.max()) < 99


@pytest.mark.parametrize(("batches", "rows", "count"), [(2, 6, 7), (3, 7, 8)])
def test_latents_and_images_must_be_as_many(batches: int, rows: int, count: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^data: {rows} of {count} images were encoded$"):
        latents.write(tmp_path, encoded()[:batches], count=count, data_fingerprint="d", autoencoder="a")
    with pytest.raises(DataError, match=r"holds no latents"):
        latents.read(tmp_path)


def test_no_images_are_no_latents(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data: 0 of 3 images were encoded$"):
        latents.write(tmp_path, [], count=3, data_fingerprint="d", autoencoder="a")


def test_what_was_there_is_gone_as_soon_as_writing_begins(folder: Path) -> None:
    def broken() -> Any:
        yield encoded()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        latents.write(folder, broken(), count=7, data_fingerprint="d" * 64, autoencoder="a" * 64)
    with pytest.raises(DataError, match=r"holds no latents"):
        latents.read(folder)


# -- damage ----------------------------------------------------------------------------------------


def change(field: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / latents.DESCRIPTION
        path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))

    return damage


def drop(field: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / latents.DESCRIPTION
        document = json.loads(path.read_text())
        del document[field]
        path.write_text(json.dumps(document))

    return damage


def truncate(folder: Path) -> None:
    content = (folder / latents.MOMENTS).read_bytes()
    (folder / latents.MOMENTS).write_bytes(content[:-100])


def empty(folder: Path) -> None:
    (folder / latents.MOMENTS).write_bytes(b"")


def no_moments(folder: Path) -> None:
    (folder / latents.MOMENTS).unlink()


def unfinished(folder: Path) -> None:
    (folder / latents.DESCRIPTION).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("shape", [2, 4, 5]), r"data\.latents: shape: .* says float32 \(7, 1, 2, 2, 4, 5\)"),
        (change("count", 8), r"data\.latents: shape: .* says float32 \(8, 1, 2, 2, 4, 4\)"),
        (change("flips", 2), r"data\.latents: shape: .* says float32 \(7, 2, 2, 2, 4, 4\)"),
        (change("labels", [1]), r"data\.latents: .* is damaged .*labels"),
        (drop("shape"), r"lacks the field 'shape'"),
        (drop("autoencoder"), r"is damaged .*autoencoder"),
        (truncate, r"data\.latents: .* is damaged"),
        (no_moments, r"data\.latents: .* is damaged"),
        (unfinished, r"holds no latents .latents\.json is missing"),
        (empty, r"data\.latents: .* is damaged"),
    ],
)
def test_damaged_latents_are_refused_with_the_cure(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(DataError, match=message + ".*" + AGAIN) as caught:
        latents.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "data_fingerprint",
            "f" * 64,
            "data_fingerprint: the latents belong to dddddddddddd, this run uses ffffffffffff",
        ),
        ("autoencoder", "f" * 64, "autoencoder: the latents belong to aaaaaaaaaaaa, this run uses ffffffffffff"),
        ("flips", 2, r"flips: the latents have 1, data\.flip needs 2"),
    ],
)
def test_latents_of_something_else_are_refused(folder: Path, field: str, value: Any, message: str) -> None:
    found = latents.read(folder)
    expected: dict[str, Any] = {"data_fingerprint": "d" * 64, "autoencoder": "a" * 64, "flips": 1}
    latents.check(found, **expected)
    assert found.description.matches(**expected)
    with pytest.raises(DataError, match=rf"^data\.latents: {message}{AGAIN}"):
        latents.check(found, **{**expected, field: value})
    assert not found.description.matches(**{**expected, field: value})


def test_a_disk_that_fills_is_an_error_of_one_line(tmp_path: Path) -> None:
    """The process died of a bus error."""
    part = torch.zeros(8, 1, 2, 32, 32)
    with small_disk(tmp_path / "disk", 600_000) as disk:
        with pytest.raises(
            DataError, match=r"^data\.latents: .* cannot be written \(No space left on device\); make room"
        ):
            latents.write(disk / "set", [(part, part)] * 9, count=72, data_fingerprint="d", autoencoder="a")
        assert not (disk / "set/latents.json").exists()


# -- encoding --------------------------------------------------------------------------------------


def test_encoding_writes_scaled_moments_of_the_training_images_only(
    bars: ImageSet, bars_root: Path, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    autoencoder.latent_scale.fill_(3.0)
    release = save_autoencoder(tmp_path / "release", autoencoder, name="first", image_size=16)
    assert encode_latents.run(tmp_path / "release", bars_root, tmp_path / "latents") == tmp_path / "latents"
    found = latents.read(tmp_path / "latents")
    with torch.inference_mode():
        posterior = autoencoder.posterior(bars.pixels(bars.rows("train")))
    assert found.moments.shape == (36, 1, 2, 2, 8, 8)
    torch.testing.assert_close(found.moments[:, 0, 0], posterior.mean * 3, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.moments[:, 0, 1], (0.5 * posterior.logvar).exp() * 3, rtol=1e-4, atol=1e-5)
    latents.check(found, data_fingerprint=bars.description.fingerprint, autoencoder=release.digest, flips=1)


def test_the_second_moments_are_those_of_the_mirrored_images(
    bars: ImageSet, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    found = encoding.encode(autoencoder, bars, tmp_path, digest="a", flip=True)
    images = bars.pixels(bars.rows("train"))
    assert not torch.allclose(found.moments[:, 0], found.moments[:, 1], atol=0.1)
    for flip, view in enumerate((images, images.flip(-1))):
        with torch.inference_mode():
            mean, std = autoencoder.moments(view)
        torch.testing.assert_close(found.moments[:, flip, 0], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.moments[:, flip, 1], std, rtol=1e-4, atol=1e-5)
    latents.check(found, data_fingerprint=bars.description.fingerprint, autoencoder="a", flips=2)


def test_images_that_the_autoencoder_does_not_take_are_refused(
    bars: ImageSet, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    def of(**shape: int) -> ImageSet:
        side, channels = shape.get("side", 16), shape.get("channels", 1)
        images = torch.zeros(2, side, side, channels, dtype=torch.uint8).numpy()
        return image_set.write(tmp_path, name="zeros", images=images, records=[{"name": "a"}] * 2, train_count=2)

    encoding.check_images(autoencoder, bars)
    with pytest.raises(DataError, match=r"^data\.root: images of 3 channels; this autoencoder needs 1$"):
        encoding.check_images(autoencoder, of(channels=3))
    with pytest.raises(DataError, match=r"^data\.root: images of 15 pixels; this autoencoder needs multiples of 2$"):
        encoding.encode(autoencoder, of(side=15), tmp_path / "latents", digest="a")


def test_the_command_encodes_mirrored_images_where_it_is_told_to(
    bars_root: Path, autoencoder: Autoencoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_autoencoder(tmp_path / "release", autoencoder, name="first", image_size=16)
    arguments = [str(tmp_path / "release"), str(bars_root), str(tmp_path / "latents")]
    assert encode_latents.main([*arguments, "--flip"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "latents")
    assert latents.read(tmp_path / "latents").description.flips == 2


def test_the_command_tells_mistakes_in_one_line(
    autoencoder: Autoencoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode_latents.main([str(tmp_path), str(tmp_path), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip().endswith("not a release, release.json is missing")
    save_autoencoder(tmp_path / "release", autoencoder, name="first", image_size=16)
    assert encode_latents.main([str(tmp_path / "release"), str(tmp_path), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("data.root: ")
    assert line.endswith("holds no image set (images.json is missing); prepare the data first")


def test_one_writes_a_folder_while_another_waits(tmp_path: Path) -> None:
    events: list[str] = []

    def write(name: str) -> None:
        with lock_folder(tmp_path / "new" / "latents"):
            events.append(f"{name} begins")
            time.sleep(0.05)
            events.append(f"{name} ends")

    both = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    first, second = events[0][:3], events[2][:3]
    assert events == [f"{first} begins", f"{first} ends", f"{second} begins", f"{second} ends"]
    assert {first, second} == {"one", "two"}
    assert not (tmp_path / "new" / "latents").exists()
