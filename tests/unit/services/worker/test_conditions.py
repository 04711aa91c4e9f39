"""Conditions are read once, away from the engine's thread, and embedded once, whatever else is embedded with them."""

import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from services.job_requests import condition_images
from services.job_requests.image_spec import ImageSpec
from services.worker import conditions
from services.worker.engine import Engine
from services.worker.images import Developed
from services.worker.pack import EMBED_ROWS
from tests.support.images import as_base64, image_file, random_labels
from tests.support.releases import make_map_release, make_resolution_release, make_tiny_release
from training.model.conditioners.classes import ClassConditioner
from training.model.latent_diffusion import load_diffusion, save_diffusion

LARGE = as_base64(image_file(Image.new("RGB", (4096, 4096), (200, 30, 7))))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine[object]:
    """An engine of a release for super-resolution, whose images may have any size."""
    folder = make_resolution_release(tmp_path_factory.mktemp("release") / "tiny-sr")
    return Engine[object](folder, rows=32, device="cpu")


def spec(index: int, steps: int = 1) -> ImageSpec:
    return ImageSpec(index, index, index, steps, "ddim", 2.0)


def run(engine: Engine[object]) -> dict[int, bytes]:
    done: dict[int, bytes] = {}
    while engine.busy:
        done |= {image.spec.index: image.pixels.tobytes() for image in engine.step() if isinstance(image, Developed)}
    return done


def test_an_item_that_lost_a_field_after_planning_is_refused_by_its_name(engine: Engine[object]) -> None:
    with pytest.raises(ValueError, match=r"^low_resolution: is missing; the job's input has changed"):
        engine.read_conditions({"seed": 3})


def test_a_large_image_is_resized_before_the_engine_sees_it(engine: Engine[object]) -> None:
    """It took 27 seconds of the engine's thread: it was resized for each of the rows."""
    read = engine.read_conditions({"low_resolution": LARGE})
    assert tuple(read.values["low_resolution"].shape) == (3, 8, 8)
    assert read.values["low_resolution"].untyped_storage().nbytes() == 3 * 8 * 8 * 4  # no view of the large image
    run(engine)
    small = engine.read_conditions({"low_resolution": as_base64(image_file(np.zeros((8, 8, 3), np.uint8)))})
    seconds = []
    for one in (small, read):
        begun = time.thread_time()
        for index in range(16):
            engine.add("owner", engine.request(spec(index), one))
        assert len(run(engine)) == 16
        seconds.append(time.thread_time() - begun)
    assert seconds[1] < 3 * seconds[0] + 0.1


def test_the_images_of_one_item_share_one_reading_and_one_embedding(
    engine: Engine[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, embed = Mock(wraps=condition_images.decode_images), Mock(wraps=engine.model.conditions)
    monkeypatch.setattr("services.worker.conditions.decode_images", decode)
    monkeypatch.setattr(engine.model, "conditions", embed)
    item = {"low_resolution": as_base64(image_file(np.full((9, 9, 3), 77, np.uint8)))}
    for shard in range(5):
        read = engine.read_conditions(item)
        for index in range(16):
            engine.add("owner", engine.request(spec(16 * shard + index), read))
    assert len(run(engine)) == 80
    assert decode.call_count == 1
    calls = [call.args[0] for call in embed.call_args_list]
    assert sum(request is not None for requests in calls for request in requests) == 1
    assert all(len(requests) == engine.pack.embed_rows == 1 for requests in calls), "each is computed once"


def test_distinct_conditions_of_waiting_images_are_embedded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU a call of the model takes as long for a few images as for one."""
    monkeypatch.setitem(EMBED_ROWS, "cpu", 8)
    engine = Engine[object](make_map_release(tmp_path / "map"), rows=8, device="cpu")
    embed = Mock(wraps=engine.model.conditions)
    monkeypatch.setattr(engine.model, "conditions", embed)
    for seed in range(24):
        read = engine.read_conditions({"semantic_map": as_base64(random_labels(seed))})
        engine.add("owner", engine.request(spec(seed, steps=1 + seed % 3), read))
    assert len(run(engine)) == 24
    assert embed.call_count <= 24 / 8 + 1  # and one for the null condition


def test_conditions_embed_alike_alone_and_in_any_company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EMBED_ROWS, "cpu", 8)
    engine = Engine[object](make_map_release(tmp_path / "map"), rows=8, device="cpu")
    items = [{"semantic_map": as_base64(random_labels(seed))} for seed in range(11)]
    alone = [engine.pack.embedder._embed([engine.read_conditions(item).values])[0] for item in items]
    together = engine.pack.embedder.embed([engine.read_conditions(item) for item in items])
    for one, other in zip(alone, together, strict=True):
        assert not isinstance(other, Exception)
        assert torch.equal(one.maps, other.maps)  # type: ignore[arg-type]


@pytest.mark.parametrize("capacity", ["READ_BYTES", "EMBEDDED_BYTES"])
def test_what_is_kept_of_distinct_conditions_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capacity: str
) -> None:
    monkeypatch.setattr(conditions, capacity, 4000)
    engine = Engine[object](make_map_release(tmp_path / "map"), rows=8, device="cpu")
    for seed in range(20):
        item = {"semantic_map": as_base64(random_labels(seed))}
        engine.add("owner", engine.request(spec(seed), engine.read_conditions(item)))
    assert len(run(engine)) == 20
    kept: Any = engine._reader._read if capacity == "READ_BYTES" else engine.pack.embedder._kept
    assert 0 < kept.size <= 4000
    assert 0 < len(kept) < 20


def test_equal_conditions_have_equal_digests_and_others_do_not() -> None:
    body = random_labels(1)
    assert conditions.digest_of({"a": 1, "b": body}) == conditions.digest_of({"b": bytes(body), "a": 1})
    assert conditions.digest_of({"a": body}) != conditions.digest_of({"a": body + b"0"})
    assert conditions.digest_of({"a": "1"}) != conditions.digest_of({"a": 1})


def test_a_whole_float_is_an_integer_at_any_depth(tmp_path: Path) -> None:
    """JSON Schema takes 3.0 for an integer."""
    layout = {"type": "layout_map", "classes": 4, "channels": 2}
    folder = make_tiny_release(tmp_path / "layout", conditioners={"layout": layout}, in_channels=4)
    engine = Engine[object](folder, rows=2, device="cpu")
    read = engine.read_conditions({"layout": {"boxes": [{"class": 3.0, "box": [0.0, 0.0, 0.5, 1.0]}]}})
    assert read.digest == engine.read_conditions({"layout": {"boxes": [{"class": 3, "box": [0, 0, 0.5, 1]}]}}).digest


def test_a_class_by_name_is_the_class_of_its_number(tmp_path: Path) -> None:
    model, _ = load_diffusion(make_tiny_release(tmp_path / "numbers"))
    conditioner = model.conditioners.by_field()["class_label"]
    assert isinstance(conditioner, ClassConditioner)
    conditioner.names = tuple(f"kind {number}" for number in range(conditioner.classes))
    (tmp_path / "names").mkdir()
    save_diffusion(tmp_path / "names", model, name="named", image_size=8)
    engine = Engine[object](tmp_path / "names", rows=4, device="cpu")
    by_name, by_number = (engine.read_conditions({"class_label": value}) for value in ("kind 2", 2))
    assert (by_name.values, by_name.digest) == (by_number.values, by_number.digest)
    with pytest.raises(ValueError, match="class_label"):
        engine.read_conditions({"class_label": "kind"})
