"""A worker whose memory does not suffice gives up as little as it can."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from services.observability import metrics
from services.registry.release_cache import ReleaseCache
from services.settings import load
from services.worker.device_faults import OutOfMemory, Part, named_faults
from services.worker.engine_cache import EngineCache
from services.worker.self_test import SelfTest
from tests.support.releases import make_tiny_release
from training.model.release import read

Memory = Callable[..., None]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EngineCache:
    """Engines of 16 rows, of releases that are on the disk: a manifest names its folder."""
    monkeypatch.setattr(ReleaseCache, "load", lambda self, manifest, build: build(Path(manifest["folder"])))
    given = {
        "S3_BUCKET": "none", "DATABASE_URL": "postgresql://nobody@localhost/none", "BROKER_URL": "redis://localhost/0",
        "CACHE_DIR": str(tmp_path), "ROOT": str(tmp_path), "ROWS": "16", "DEVICE": "cpu",
    }  # fmt: skip
    settings = load("worker", {f"DARKROOM_{name}": value for name, value in given.items()})
    return EngineCache(None, settings)  # type: ignore[arg-type]  # nothing is fetched


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Sets for how many rows the memory suffices, as CUDA says it."""
    network, decoder = SelfTest.check_step, SelfTest.check_decoder

    def limit(*, rows: int = 1024, decode: int = 1024) -> None:
        def check(real: Any, most: int) -> Any:
            def check(self: SelfTest, function: Any, *given: Any) -> None:
                if given[-1] > most:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nAdvice")
                real(self, function, *given)

            return check

        monkeypatch.setattr(SelfTest, "check_step", check(network, rows))
        monkeypatch.setattr(SelfTest, "check_decoder", check(decoder, decode))

    return limit


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The manifests of two releases."""
    folders = [make_tiny_release(tmp_path_factory.mktemp("release") / str(seed), seed=seed) for seed in (1, 2)]
    return [{**read(folder).to_json(), "folder": str(folder)} for folder in folders]


def test_rows_that_do_not_fit_are_halved_for_their_release_alone(
    engines: EngineCache, memory: Memory, manifests: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    memory(rows=5)
    before = metrics.PROFILE_SHRINKS._value.get()
    first = engines.get(manifests[0])
    assert (first.rows, first.decode_rows) == (4, 4)
    assert metrics.PROFILE_SHRINKS._value.get() == before + 2
    assert "out of memory in the network with 8 rows (CUDA out of memory. Tried to allocate 2.00 GiB.)" in caplog.text
    assert "continuing with 4 rows" in caplog.text
    memory()
    assert engines.get(manifests[1]).rows == 16
    assert engines.get(manifests[0]) is first


def test_other_releases_are_unloaded_before_rows_are_halved(
    engines: EngineCache, memory: Memory, manifests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = engines.get(manifests[0])
    assert engines.recover(first, OutOfMemory("CUDA out of memory")), "it was alone"
    assert engines.get(manifests[0]).rows == 8
    failures = iter([torch.OutOfMemoryError("CUDA out of memory")])
    real = SelfTest.check_step

    def fail_once(self: SelfTest, *given: Any) -> None:
        for failure in failures:
            raise failure
        real(self, *given)

    monkeypatch.setattr(SelfTest, "check_step", fail_once)
    assert engines.get(manifests[1]).rows == 16
    assert list(engines._engines) == [manifests[1]["digest"]]


def test_a_decoder_without_memory_decodes_fewer_at_once_and_keeps_the_rows(
    engines: EngineCache, memory: Memory, manifests: list[dict[str, Any]]
) -> None:
    memory(decode=1)
    engine = engines.get(manifests[0])
    assert (engine.rows, engine.decode_rows) == (16, 1)
    assert "/16+1+1rows#" in engine.profile


def test_a_release_that_does_not_fit_at_all_is_refused(
    engines: EngineCache, memory: Memory, manifests: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    memory(rows=1)
    with caplog.at_level(logging.ERROR), pytest.raises(OutOfMemory, match=r"^CUDA out of memory\. Tried .* GiB\.$"):
        engines.get(manifests[0])
    assert "with 2 rows" in caplog.text
    assert "cannot be reduced further" in caplog.text
    assert not engines._engines


@pytest.mark.parametrize("part", ["the network", "the decoder"])
def test_the_memory_of_a_cpu_that_ends_is_the_same_fault(part: Part) -> None:
    with pytest.raises(OutOfMemory, match="can't allocate memory") as caught, named_faults(part):
        torch.empty(2**60, dtype=torch.uint8)
    assert caught.value.part == part
    with pytest.raises(OutOfMemory), named_faults():
        bytearray(2**62)
    with pytest.raises(RuntimeError, match="shape"), named_faults():
        torch.zeros(2).reshape(3)
