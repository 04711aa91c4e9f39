"""Sets that keep aspect ratios have every picture whole too, beside the same squares as other sets."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.own_images import Files, noise_png, write_tars
from training.data import image_set
from training.data.image_set import ImageSet
from training.data.own_images.prepare import Settings, prepare_once

SHAPES = {
    "a.png": (16, 16),
    "b.png": (20, 12),
    "c.png": (12, 20),
    "d.png": (40, 24),
    "e.png": (17, 15),
    "f.png": (90, 20),
}
FILES: Files = {name: noise_png(number, size) for number, (name, size) in enumerate(SHAPES.items())}


def test_whole_pictures_are_kept_in_the_nearest_shape_beside_the_squares(make: Callable[..., ImageSet]) -> None:
    plain, made = make(FILES, image_size=16), make(FILES, image_size=16, bucket_step=4)
    assert np.array_equal(plain.images, made.images)
    assert plain.records == made.records
    assert plain.whole is None
    assert made.whole is not None
    assert plain.description.fingerprint != made.description.fingerprint
    assert made.description.buckets == ((16, 16), (20, 12), (12, 20))
    assert made.whole.bucket.tolist() == [0, 1, 2, 1, 0, 1]
    assert made.whole.positions.tolist() == [0, 0, 0, 1, 1, 2]
    for name, bucket in (("a.png", 0), ("b.png", 1), ("c.png", 2)):  # of the shape already: not resampled
        assert np.array_equal(made.whole.arrays[bucket][0], np.asarray(Image.open(io.BytesIO(FILES[name]))))
    wide = Image.open(io.BytesIO(FILES["f.png"]))
    middle = wide.resize((20, 12), Image.Resampling.LANCZOS, box=(85 / 3, 0, 185 / 3, 20))
    assert np.abs(made.whole.arrays[1][2].astype(int) - np.asarray(middle)).max() <= 1


def test_every_source_makes_the_same_whole_pictures(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    of_folder = make(FILES, image_size=16, bucket_step=4).description
    for seed in range(2):
        tars = write_tars(tmp_path / f"tars-{seed}", FILES, 2, seed)
        assert make(tars, image_size=16, bucket_step=4).description == of_folder


def test_large_photos_are_decoded_at_a_part_of_their_size(make: Callable[..., ImageSet]) -> None:
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)).resize((801, 503))
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=95)
    made = make({"a.jpg": file.getvalue()}, image_size=16, bucket_step=4)
    assert made.whole is not None
    expected = np.asarray(smooth.resize((20, 12), Image.Resampling.LANCZOS), dtype=int)
    assert np.abs(made.whole.arrays[0][0] - expected).mean() < 4


def test_the_step_is_a_part_of_what_a_set_was_made_with(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, body in FILES.items():
        (source / name).write_bytes(body)
    root = tmp_path / "set"
    without = prepare_once(str(source), root, Settings(16)).description
    assert "buckets" not in (root / "images.json").read_text()
    whole = prepare_once(str(source), root, Settings(16, bucket_step=4))
    assert whole.whole is not None
    assert image_set.read(root).description == whole.description
    assert prepare_once(str(source), root, Settings(16)).description == without


@pytest.mark.parametrize("step", [4, 8])
def test_pictures_of_one_shape_make_one_bucket(make: Callable[..., ImageSet], step: int) -> None:
    made = make({f"{n}.png": noise_png(n, (32, 32)) for n in range(4)}, image_size=16, bucket_step=step)
    assert made.description.buckets == ((16, 16),)
    assert made.whole is not None
    assert np.array_equal(made.whole.arrays[0], made.images)
