"""The profile "auto": where the fastest profile cannot be used, the next one serves, and the worker says so."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from services.observability import metrics
from services.registry.release_cache import ReleaseCache
from services.settings import load
from services.worker import execution, precompile
from services.worker.compile_apart import Networks, TooLate
from services.worker.compile_cache import CompileCache
from services.worker.device_faults import UnstableProfile
from services.worker.engine import Engine
from services.worker.engine_cache import EngineCache
from services.worker.execution import Execution
from tests.unit.services.worker.test_engine import develop, image
from training.model.release import Serve, read, write

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU has the profiles of a GPU."""
    monkeypatch.setitem(execution.AUTO, "cpu", execution.AUTO["cuda"])


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., EngineCache]:
    """Makes engines of 8 rows, of releases that are on the disk: a manifest names its folder."""
    monkeypatch.setattr(ReleaseCache, "load", lambda self, manifest, build: build(Path(manifest["folder"])))

    def make(profile: str, **others: str) -> EngineCache:
        given = {
            "S3_BUCKET": "none", "DATABASE_URL": "postgresql://nobody@localhost/none",
            "BROKER_URL": "redis://localhost/0", "CACHE_DIR": str(tmp_path), "ROOT": str(tmp_path), "ROWS": "8",
            "DEVICE": "cpu", "PROFILE": profile, **others,
        }  # fmt: skip
        settings = load("worker", {f"DARKROOM_{name}": value for name, value in given.items()})
        return EngineCache(None, settings)  # type: ignore[arg-type]  # nothing is fetched

    return make


def manifest_of(folder: Path) -> dict[str, Any]:
    return {**read(folder).to_json(), "folder": str(folder)}


def fallbacks(profile: str) -> float:
    return float(metrics.PROFILE_FALLBACKS.labels(profile)._value.get())


def depend_on_the_place_in(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rows depend on their place, as with kernels that split a sum by position."""
    original = Execution.take_step

    def disturb(answer: Tensor) -> Tensor:
        return answer + torch.arange(len(answer)).reshape(-1, *[1] * (answer.dim() - 1)) * 1e-2

    def take_step(self: Execution) -> Any:
        real = original(self)
        return real if self.dtype != dtype else lambda *given: tuple(map(disturb, real(*given)))

    monkeypatch.setattr(Execution, "take_step", take_step)


def unable(networks: Networks, limit_s: float) -> bytes:
    raise UnstableProfile(f"profile {networks.profile}: it cannot be compiled: there is no compiler")


def test_auto_permits_ever_slower_profiles_and_no_other_value_does() -> None:
    def settings(profile: str, device: torch.device, precision: str | None = None) -> list[str]:
        return [one.setting for one in Execution.permitted(profile, device, precision)]

    assert settings("auto", GPU) == ["bf16-compiled", "bf16", "fp32"]
    assert settings("auto", GPU, "fp32") == ["fp32-compiled", "fp32"]
    assert settings("bf16-compiled", GPU) == ["bf16-compiled"]
    assert settings("bf16-compiled", GPU, "fp32") == ["fp32-compiled"]


def test_auto_goes_on_to_fp32_where_nothing_is_compiled_and_bf16_fails_its_test(
    engines: Callable[..., EngineCache],
    tiny_release: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[str] = []

    def compile_networks(self: object, key: object, compile_networks: Callable[[], bytes]) -> bytes:
        tried.append("bf16-compiled")
        return compile_networks()

    monkeypatch.setattr(CompileCache, "get", compile_networks)
    monkeypatch.setattr(precompile, "compile_apart", unable)
    depend_on_the_place_in(torch.bfloat16, monkeypatch)
    before = [fallbacks(profile) for profile in execution.AUTO["cuda"]]
    cache = engines("auto")
    engine: Engine[Any] = cache.get(manifest_of(tiny_release))
    assert "/float32/eager/8+" in engine.profile
    assert "there is no compiler; auto tries bf16 instead" in caplog.text
    assert "a step gives a row other bits" in caplog.text
    assert "; auto tries fp32 instead" in caplog.text
    after = [fallbacks(profile) for profile in execution.AUTO["cuda"]]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 0]
    assert len(develop(engine, [image(1)])) == 1
    cache._engines.clear()
    assert cache.get(manifest_of(tiny_release)).profile == engine.profile
    assert tried == ["bf16-compiled"], "what failed is tried again"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_profile_that_is_asked_for_by_name_serves_nothing_if_it_fails(
    engines: Callable[..., EngineCache], tiny_release: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    depend_on_the_place_in(torch.bfloat16 if precision == "bf16" else torch.float32, monkeypatch)
    with pytest.raises(UnstableProfile, match=r"a step gives a row other bits .* set DARKROOM_PROFILE"):
        engines(precision).get(manifest_of(tiny_release))


def test_auto_serves_nothing_if_no_profile_can_be_used(
    engines: Callable[..., EngineCache], tiny_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(execution.AUTO, "cpu", ("bf16", "fp32"))
    depend_on_the_place_in(torch.bfloat16, monkeypatch)
    depend_on_the_place_in(torch.float32, monkeypatch)
    cache = engines("auto")
    for _ in range(2):
        with pytest.raises(UnstableProfile, match=r"^profile cpu/.*/float32/eager/"):
            cache.get(manifest_of(tiny_release))


def test_auto_waits_for_what_is_compiled_too_late_as_the_setting_says(
    engines: Callable[..., EngineCache], tiny_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(networks: Networks, limit_s: float) -> bytes:
        raise TooLate(f"it was not compiled in {limit_s:g} s")

    monkeypatch.setattr(CompileCache, "get", lambda self, key, compile_networks: compile_networks())
    monkeypatch.setattr(precompile, "compile_apart", late)
    with pytest.raises(TooLate, match="raise DARKROOM_COMPILE_LIMIT_S"):
        engines("auto").get(manifest_of(tiny_release))
    assert "/bfloat16/eager/" in engines("auto", COMPILE_LATE="eager").get(manifest_of(tiny_release)).profile


def test_a_library_that_cannot_compute_in_bf16_leaves_fp32(
    engines: Callable[..., EngineCache], tiny_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(execution.AUTO, "cpu", ("bf16", "fp32"))
    original = Execution.take_step

    def take_step(self: Execution) -> Any:
        def fail(*given: Any) -> None:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")

        return fail if self.dtype == torch.bfloat16 else original(self)

    monkeypatch.setattr(Execution, "take_step", take_step)
    assert "/float32/eager/" in engines("auto").get(manifest_of(tiny_release)).profile
    with pytest.raises(UnstableProfile, match="it cannot be computed: cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"):
        engines("bf16").get(manifest_of(tiny_release))


@pytest.mark.parametrize("part", ["step", "decoder"])
def test_what_a_compiler_gets_wrong_is_not_served(
    engines: Callable[..., EngineCache], tiny_release: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The same bits at every place, but other numbers than those of the eager network."""
    eager = Execution.choose("fp32", CPU)
    take_step, decode = eager.take_step(), eager.decode()

    def wrong_step(*given: Any) -> tuple[Tensor, Tensor]:
        after, estimates = take_step(*given)
        return (after * 1.2 if part == "step" else after), estimates

    def wrong_decode(*given: Any) -> Tensor:
        return torch.as_tensor(decode(*given) * (1.2 if part == "decoder" else 1))

    monkeypatch.setattr(precompile.Precompiler, "choose", lambda self, *given: precompile.Choice(given[2]))
    monkeypatch.setattr(Execution, "take_step", lambda self: wrong_step if self.compiled else take_step)
    monkeypatch.setattr(Execution, "decode", lambda self: wrong_decode if self.compiled else decode)
    with pytest.raises(UnstableProfile, match=rf"the compiled {part} differs from the eager one by 0\.2 of its norm"):
        engines("fp32-compiled").get(manifest_of(tiny_release))
    assert "/bfloat16/eager/" in engines("auto").get(manifest_of(tiny_release)).profile


def test_a_release_that_asks_for_fp32_never_gets_bf16(
    engines: Callable[..., EngineCache], tiny_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ruled"
    shutil.copytree(tiny_release, folder)
    write(folder, read(folder).with_rule(Serve("fp32", None)))
    monkeypatch.setattr(CompileCache, "get", lambda self, key, compile_networks: compile_networks())
    monkeypatch.setattr(precompile, "compile_apart", unable)
    assert "/float32/eager/" in engines("auto").get(manifest_of(folder)).profile
