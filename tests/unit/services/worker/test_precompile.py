"""Networks that are compiled apart, in bounded time, and loaded from the cache of another process."""

import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import config as inductor

from services.observability import metrics
from services.settings import Settings, load
from services.worker import precompile
from services.worker.compile_apart import Networks, TooLate, compile_apart
from services.worker.compile_cache import Cache, CompileCache, key_of
from services.worker.compiled_files import pack, unpack
from services.worker.device_faults import OutOfMemory, UnstableProfile
from services.worker.engine import Engine
from services.worker.execution import Execution
from services.worker.precompile import Choice, Precompiler, count_compiled
from tests.support.compiling import QUICK
from tests.support.releases import make_small_release
from tests.support.thoroughness import THOROUGH
from training.model.release import read

pytestmark = pytest.mark.long

SECOND = """
import sys
from pathlib import Path
from services.worker.compile_cache import Cache
from services.worker.engine import Engine
from services.worker.precompile import Choice, count_compiled, load
from tests.unit.services.worker.test_engine import MIX, develop
cache = Cache.of(Path(sys.argv[2]).read_bytes())
load(cache)
engine = Engine(Path(sys.argv[1]), rows=4, device="cpu", profile="fp32-compiled", cache=cache.sha256)
Path(sys.argv[3]).write_text(repr((count_compiled(Choice("", cache.sha256)), engine.profile, develop(engine, MIX[:3]))))
"""


def settings(folder: Path, **others: str) -> Settings:
    given = {
        "S3_BUCKET": "none", "DATABASE_URL": "postgresql://nobody@localhost/none", "BROKER_URL": "redis://localhost/0",
        "CACHE_DIR": str(folder), "ROOT": str(folder), "DEVICE": "cpu", **others,
    }  # fmt: skip
    return load("worker", {f"DARKROOM_{name}": value for name, value in given.items()})


class Caches(CompileCache):
    """A bucket that is empty."""

    def __init__(self) -> None:
        self.keys: list[Mapping[str, Any]] = []

    def get(self, key: Mapping[str, Any], compile_networks: Callable[[], bytes]) -> Cache:
        self.keys.append(key)
        return Cache.of(compile_networks())


def late(networks: Networks, limit_s: float) -> bytes:
    raise TooLate(f"it was not compiled in {limit_s:g} s")


def test_compiling_that_takes_too_long_leaves_the_release_unserved(
    tiny_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precompile, "compile_apart", late)
    chooser = Precompiler(Caches(), settings(tmp_path, PROFILE="bf16-compiled", COMPILE_LIMIT_S="7"))
    with pytest.raises(UnstableProfile, match=r"^profile cpu/.*compiled.* in 7 s; raise DARKROOM_COMPILE_LIMIT_S, set"):
        chooser.choose(tiny_release, read(tiny_release), "bf16-compiled", 8, 4)


def test_or_the_worker_serves_it_eagerly_within_a_profile_of_its_own_and_says_so(
    tiny_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precompile, "compile_apart", late)
    before = metrics.COMPILE_CACHE.labels("late")._value.get()
    given = settings(tmp_path, PROFILE="bf16-compiled", COMPILE_LATE="eager")
    choice = Precompiler(Caches(), given).choose(tiny_release, read(tiny_release), "bf16-compiled", 8, 4)
    assert choice == Choice("bf16")
    engine = Engine[object](tiny_release, rows=8, decode=4, device="cpu", profile=choice.profile)
    assert f"is served as {engine.profile}" in caplog.text
    assert metrics.COMPILE_CACHE.labels("late")._value.get() == before + 1


def unable(networks: Networks, limit_s: float) -> bytes:
    raise UnstableProfile(f"profile {networks.profile}: it cannot be compiled: there is no compiler")


def test_networks_that_cannot_be_compiled_are_an_error_and_counted(
    tiny_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precompile, "compile_apart", unable)
    before = metrics.COMPILE_CACHE.labels("failed")._value.get()
    with pytest.raises(UnstableProfile, match="there is no compiler"):
        Precompiler(Caches(), settings(tmp_path)).choose(tiny_release, read(tiny_release), "bf16-compiled", 8, 4)
    assert metrics.COMPILE_CACHE.labels("failed")._value.get() == before + 1


def test_an_eager_profile_needs_no_cache(tiny_release: Path, tmp_path: Path) -> None:
    caches = Caches()
    chooser = Precompiler(caches, settings(tmp_path))
    assert chooser.choose(tiny_release, read(tiny_release), "bf16", 8, 4) == Choice("bf16")
    assert not caches.keys


def test_a_cache_is_kept_by_what_decides_the_kernels_and_is_in_the_name_of_the_profile(tiny_release: Path) -> None:
    release, execution = read(tiny_release), Execution.choose("fp32-compiled", torch.device("cpu"))
    keys = [
        key_of(release, execution.name(8, 4, 1), 8, 4, 1),
        key_of(release, execution.name(4, 4, 1), 4, 4, 1),
        key_of(replace(release, architecture={}), execution.name(8, 4, 1), 8, 4, 1),
        key_of(release, replace(execution, dtype=torch.bfloat16).name(8, 4, 1), 8, 4, 1),
    ]
    assert len({repr(key) for key in keys}) == len(keys)
    cache = hashlib.sha256(b"cache").hexdigest()
    assert f"/float32/compiled-{cache[:12]}/8+" in replace(execution, cache=cache).name(8, 4, 1)
    assert "/float32/eager/8+" in replace(execution, cache=cache, compiled=False).name(8, 4, 1)


def test_a_process_that_compiles_is_ended_when_its_time_is_over(tmp_path: Path) -> None:
    with pytest.raises(TooLate, match=r"^it was not compiled in 0\.1 s$"):
        compile_apart(Networks(str(tmp_path), 4, 4, "cpu", "fp32-compiled"), 0.1)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('print(\'{"kind": "OutOfMemory", "problem": "2 GiB", "part": "the decoder"}\'); sys.exit(1)', OutOfMemory),
        ('print(\'{"kind": "UnstableProfile", "problem": "other bits", "part": null}\'); sys.exit(1)', UnstableProfile),
        ('print(\'{"kind": "InductorError", "problem": "no gcc", "part": null}\'); sys.exit(1)', UnstableProfile),
        ("sys.exit(9)", UnstableProfile),
    ],
    ids=["memory", "unstable", "compiler", "killed"],
)
def test_what_ends_compiling_is_told(said: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **how: popen([sys.executable, "-c", f"import sys; {said}"], **how)
    )
    with pytest.raises(
        error,
        match=r"2 GiB|other bits|cannot be compiled: (InductorError: no gcc|the process that compiled it ended with)",
    ) as told:
        compile_apart(Networks("folder", 4, 4, "cpu", "fp32-compiled"), 600)
    assert getattr(told.value, "part", "the decoder") == "the decoder"


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in the compiler
@inductor.patch(QUICK)  # monkeypatch would hide the options afterwards
def test_torch_compiles_nothing_that_is_in_a_loaded_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, compiled, libraries = None, [], {}
    for name in ("made", "loaded"):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / name))
        torch._dynamo.reset()
        if name == "loaded":
            assert cache is not None
            precompile.load(cache)
            libraries = {path: path.stat().st_mtime_ns for path in (tmp_path / name).glob("??/*.so")}
        before = count_compiled(Choice("", "any"))
        assert torch.compile(lambda x: x.sin() * 2)(torch.zeros(64)).sum() == 0
        compiled.append(count_compiled(Choice("", "any")) - before)
        if name == "made":
            saved = torch.compiler.save_cache_artifacts()
            assert saved is not None
            cache = Cache.of(pack(saved[0], tmp_path / name))
    assert compiled == [1, 0]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "loaded").glob("??/*.so")}
    assert written == libraries, "the C++ compiler was called"
    assert libraries
    torch._dynamo.reset()


def test_a_cache_writes_libraries_into_the_folder_of_the_compiler_alone(tmp_path: Path) -> None:
    for name in ("ab/cabc.so", "ab/cabc.main.so", "ab/notes.txt"):
        (tmp_path / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / name).write_bytes(name.encode())
    buffer = io.BytesIO(pack(b"saved", tmp_path / "made"))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("../outside.so", b"x")
        archive.writestr("ab/../../outside.so", b"x")
    (tmp_path / "loaded/ab").mkdir(parents=True)
    (tmp_path / "loaded/ab/cabc.so").write_bytes(b"stays")
    assert unpack(buffer.getvalue(), tmp_path / "loaded") == b"saved"
    found = {path.relative_to(tmp_path / "loaded").as_posix() for path in (tmp_path / "loaded").rglob("*.so")}
    assert found == {"ab/cabc.so", "ab/cabc.main.so"}
    assert (tmp_path / "loaded/ab/cabc.so").read_bytes() == b"stays"
    assert not (tmp_path / "outside.so").exists()


def test_what_is_no_cache_is_as_good_as_none(caplog: pytest.LogCaptureFixture) -> None:
    precompile.load(Cache.of(b"no archive"))
    assert "not a compile cache" in caplog.text


@pytest.mark.skipif(not THOROUGH, reason="compiling takes a minute; make chaos does")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in the compiler
def test_a_second_process_loads_without_compiling_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    release, cache, found = make_small_release(tmp_path / "release"), tmp_path / "cache", []
    cache.write_bytes(compile_apart(Networks(str(release), 4, 4, "cpu", "fp32-compiled"), 1800))
    for name in ("one", "two"):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / name))  # nothing is there
        subprocess.run([sys.executable, "-c", SECOND, release, cache, tmp_path / f"{name}.out"], check=True)
        found.append((tmp_path / f"{name}.out").read_text())
    assert found[0] == found[1]
    assert found[0].startswith("(0, 'cpu/")
    assert f"/float32/compiled-{hashlib.sha256(cache.read_bytes()).hexdigest()[:12]}/" in found[0]
