"""Compiled profiles, as the C++ compiler of this machine makes them: the promises about bytes, and what fails."""

import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor

from services.job_requests.image_spec import ImageSpec
from services.worker.device_faults import UnstableProfile
from services.worker.engine import Engine
from services.worker.execution import Execution
from tests.support.compiling import QUICK
from tests.support.releases import (
    make_distilled_release,
    make_map_release,
    make_small_release,
    make_tiny_release,
)
from tests.support.thoroughness import THOROUGH
from tests.unit.services.worker.test_engine import ODD, Image, develop, image

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # in the compiler
]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
MIX = [
    image(1),
    image(2, steps=7, guidance=1.0, label=9),
    image(3, solver="dpm_solver_2m", steps=5),
    image(4, solver="ddpm", steps=6, guidance=3.5, label=0),
    ODD,
]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest release with a U-Net that has every kind of layer: compiling it takes a minute of one core."""
    return make_small_release(tmp_path_factory.mktemp("small") / "release")


@pytest.fixture(scope="module")
def compiled(release: Path) -> Iterator[Engine[object]]:
    """An engine that has taken its first steps."""
    torch._dynamo.reset()
    with inductor.patch(QUICK):
        engine = Engine[object](release, rows=4, device="cpu", profile="fp32-compiled")
        develop(engine, [MIX[0]])
        yield engine
    torch._dynamo.reset()


def difference(first: dict[int, bytes], second: dict[int, bytes]) -> int:
    """Return the largest difference between pixels, of 255."""
    pairs = ((np.frombuffer(first[seed], np.uint8), np.frombuffer(second[seed], np.uint8)) for seed in first)
    return max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs)


@needs_compiler
def test_an_image_is_the_same_alone_and_in_any_company(compiled: Engine[object]) -> None:
    together = develop(compiled, MIX)
    shuffled = MIX.copy()
    random.Random(0).shuffle(shuffled)
    assert develop(compiled, shuffled) == together
    for each in MIX:
        assert develop(compiled, [each])[each.spec.seed] == together[each.spec.seed]
    assert len(set(together.values())) == len(MIX)


@needs_compiler
def test_another_engine_of_the_profile_gives_the_same_bytes(compiled: Engine[object], release: Path) -> None:
    again = Engine[object](release, rows=4, device="cpu", profile="fp32-compiled")
    assert again.profile == compiled.profile
    assert develop(again, MIX) == develop(compiled, MIX)


@needs_compiler
def test_images_are_those_of_eager_fp32(compiled: Engine[object], release: Path) -> None:
    eager = Engine[object](release, rows=4, device="cpu", profile="fp32")
    assert "/float32/compiled/" in compiled.profile
    assert "/float32/eager/" in eager.profile
    assert difference(develop(compiled, MIX), develop(eager, MIX)) <= 1


@needs_compiler
@inductor.patch(QUICK)
@pytest.mark.skipif(not THOROUGH, reason="compiling a second profile takes a minute; make chaos does")
def test_bf16_keeps_its_bytes_alone_in_company_and_once_compiled_anew(
    release: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The last engine reads what the first compiled from the cache on the disk, as a worker does after a restart."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    found = []
    for _ in range(2):
        torch._dynamo.reset()
        engine = Engine[object](release, rows=4, device="cpu", profile="bf16-compiled")
        found.append(develop(engine, MIX))
        for each in MIX:
            assert develop(engine, [each])[each.spec.seed] == found[-1][each.spec.seed]
    assert "/bfloat16/compiled/" in engine.profile
    assert found[0] == found[1]
    eager = Engine[object](release, rows=4, device="cpu", profile="fp32")
    assert difference(found[0], develop(eager, MIX)) <= 6, "of 255; measured 3"


@needs_compiler
@dynamo.patch(error_on_recompile=True)
def test_no_mix_of_requests_compiles_again(compiled: Engine[object]) -> None:
    others: list[Image] = [image(7, steps=1), image(8, guidance=0.0), image(9, solver="heun", guidance=5.0)]
    develop(compiled, [*others, *MIX])


@pytest.mark.parametrize("make", [make_tiny_release, make_map_release, make_distilled_release])
def test_the_first_image_compiles_nothing_that_the_self_test_did_not(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a compile cache would lack it: the first step of each worker would take a minute, and have its own bytes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # which compiles nothing
    engine = Engine[object](make(tmp_path / "release"), rows=4, device="cpu", profile="fp32-compiled")
    conditions: dict[str, Any] = {"semantic_map": None} if make is make_map_release else {"class_label": 1}
    solvers = ["shortcut"] if make is make_distilled_release else ["ddim", "ddpm"]
    with dynamo.patch(error_on_recompile=True):
        develop(engine, [Image(ImageSpec(i, 0, i, 4, solver, 2.0), conditions) for i, solver in enumerate(solvers)])
    torch._dynamo.reset()


def test_a_profile_that_cannot_be_compiled_serves_nothing(
    tiny_release: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in an image without a compiler. It does not fall back: its images would have the bytes of another profile."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def take_step(self: Execution) -> Any:
        return torch.compile(lambda model, state, *given: (state * 2 + 1, state))

    monkeypatch.setattr(Execution, "take_step", take_step)
    without_compiler = inductor.patch({"cpp.cxx": (str(tmp_path / "g++"),), "compile_threads": 1})
    refused = pytest.raises(UnstableProfile, match=r"^profile cpu/.*: it cannot be compiled: .*; set DARKROOM_PROFILE")
    with without_compiler, refused:
        Engine[object](tiny_release, rows=8, device="cpu", profile="fp32-compiled")
    torch._dynamo.reset()
