"""An image that cannot be made fails alone, and those beside it keep their bytes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from services.job_requests.image_spec import ImageSpec
from services.observability import metrics
from services.worker.device_faults import OutOfMemory
from services.worker.engine import Engine
from services.worker.images import Developed, Failed
from services.worker.pack import Pack

GOOD = range(10)
BAD = 100


@pytest.fixture
def engine(tiny_release: Path) -> Engine[str]:
    return Engine[str](tiny_release, rows=8, device="cpu")


def develop(engine: Engine[str], indices: Sequence[int]) -> tuple[dict[int, bytes], dict[int, str]]:
    """Return the pixels of the images that were made, and the errors of the others."""
    for index in indices:
        conditions = engine.read_conditions({"class_label": 9 if index == BAD else index % 9})
        engine.add("owner", engine.request(ImageSpec(index, 0, index, 3, "ddim", 1.0), conditions))
    made: dict[int, bytes] = {}
    failed: dict[int, str] = {}
    while engine.busy:
        for image in engine.step():
            if isinstance(image, Developed):
                made[image.spec.index] = image.pixels.tobytes()
            else:
                failed[image.spec.index] = image.error
    assert not engine.owners()
    return made, failed


def break_latent(engine: Engine[str], value: float) -> None:
    """Let the latent of the bad image hold one `value`."""
    leave = engine.pack.batch.leave

    def leave_broken(run: Any) -> Any:
        latent = leave(run)
        if run.seed == BAD:
            latent[0, 1, 2] = value
        return latent

    engine.pack.batch.leave = leave_broken  # type: ignore[method-assign]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_latent_that_is_not_finite_fails_its_image(engine: Engine[str], value: float) -> None:
    """It would be stored as a black image."""
    expected, _ = develop(engine, GOOD)
    break_latent(engine, value)
    before = metrics.IMAGES_UNUSABLE.labels("not_finite")._value.get()
    made, failed = develop(engine, [*GOOD[:4], BAD, *GOOD[4:]])
    assert made == expected
    assert list(failed) == [BAD]
    assert "NaN or infinite values; use a lower guidance_scale, or ask the operator to check the release" in failed[BAD]
    assert metrics.IMAGES_UNUSABLE.labels("not_finite")._value.get() == before + 1


def test_a_decoder_that_gives_nan_fails_its_image(engine: Engine[str]) -> None:
    break_latent(engine, 1e38)
    _, failed = develop(engine, [1, BAD, 2])
    assert list(failed) == [BAD]


def failing_on(function: Callable[..., Any], is_bad: Callable[..., bool], error: Exception) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        if is_bad(given[0]):
            raise error
        return function(*given, **named)

    return call


def test_a_latent_that_cannot_be_decoded_fails_alone(engine: Engine[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = develop(engine, GOOD)
    break_latent(engine, 1234.0)
    decode = failing_on(
        engine.model.autoencoder.decode, lambda z: bool((z == 1234.0).any()), RuntimeError("a kernel failed")
    )
    monkeypatch.setattr(engine.model.autoencoder, "decode", decode)
    made, failed = develop(engine, [*GOOD[:4], BAD, *GOOD[4:]])
    assert made == expected
    assert failed == {BAD: "it cannot be decoded: a kernel failed"}


def test_conditions_that_cannot_be_embedded_fail_alone(engine: Engine[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = develop(engine, GOOD)
    embed = failing_on(
        engine.model.conditions, lambda requests: {"class_label": 9} in requests, RuntimeError("a kernel failed")
    )
    engine.pack.embedder.clear()
    monkeypatch.setattr(engine.model, "conditions", embed)
    made, failed = develop(engine, [*GOOD[:4], BAD, *GOOD[4:]])
    assert made == expected
    assert failed == {BAD: "its conditions cannot be used: a kernel failed"}


@pytest.mark.parametrize("part", ["decode", "conditions"])
def test_out_of_memory_is_no_image_s_fault_and_its_owner_is_known(
    engine: Engine[str], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The worker returns the shards of the owners to the queue, and continues with fewer rows."""
    owner: Any = engine.model.autoencoder if part == "decode" else engine.model
    error = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(owner, part, failing_on(getattr(owner, part), lambda _: True, error))
    engine.add("owner", engine.request(ImageSpec(1, 0, 1, 1, "ddim", 1.0), engine.read_conditions({"class_label": 1})))
    with pytest.raises(OutOfMemory):
        engine.step()
    assert engine.owners() == ["owner"]


def test_an_image_that_failed_is_not_lost_when_the_step_then_runs_out_of_memory(
    engine: Engine[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the worker would hold its shard for ever, because nobody settles the image."""
    broken = failing_on(engine.model.conditions, lambda requests: {"class_label": 9} in requests, ValueError("no"))
    monkeypatch.setattr(engine.model, "conditions", broken)
    for owner, label in (("one", 9), ("other", 1)):
        spec = ImageSpec(label, 0, label, 1, "ddim", 1.0)
        engine.add(owner, engine.request(spec, engine.read_conditions({"class_label": label})))
    with monkeypatch.context() as context:

        def fail() -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        context.setattr(engine.pack.batch, "step", fail)
        with pytest.raises(OutOfMemory):
            engine.step()
    assert sorted(engine.owners()) == ["one", "other"]
    assert sorted(type(image).__name__ for image in engine.step()) == ["Developed", "Failed"]


def test_images_of_another_size_are_not_lost_when_their_pack_cannot_be_opened(
    engine: Engine[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pack: object) -> None:
        raise RuntimeError("a kernel failed")

    spec = ImageSpec(1, 0, 1, 1, "ddim", 1.0, size=(32, 16))
    engine.add("owner", engine.request(spec, engine.read_conditions({"class_label": 1})))
    with monkeypatch.context() as context:
        context.setattr(Pack, "_test", fail)
        with pytest.raises(RuntimeError, match="a kernel failed"):
            engine.step()
    assert engine.owners() == ["owner"]
    assert [type(image) for image in engine.step()] == [Developed]


def test_a_failure_names_its_owner(engine: Engine[str]) -> None:
    break_latent(engine, float("nan"))
    engine.add(
        "mine", engine.request(ImageSpec(BAD, 0, BAD, 1, "ddim", 1.0), engine.read_conditions({"class_label": 1}))
    )
    (failed,) = engine.step()
    assert isinstance(failed, Failed)
    assert (failed.owner, failed.spec.index) == ("mine", BAD)
