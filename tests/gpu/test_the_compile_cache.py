"""What one process compiles on a GPU, others load: with the same kernels, and so with the same bytes."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from services.worker.compile_apart import Networks, compile_apart
from tests.benchmarks.gpu_timing import DEVICE
from tests.support.releases import make_tiny_release

SECOND = """
import sys
from pathlib import Path
from services.worker.compile_cache import Cache
from services.worker.engine import Engine
from services.worker.precompile import Choice, count_compiled, load
from tests.benchmarks.gpu_parts import develop
cache = Cache.of(Path(sys.argv[2]).read_bytes())
load(cache)
engine = Engine(Path(sys.argv[1]), rows=8, device="cuda", profile="bf16-compiled", cache=cache.sha256)
print(count_compiled(Choice("", cache.sha256)), engine.profile, sorted(develop(engine, list(range(8))).items()))
"""


def test_other_processes_load_what_one_compiled_and_give_the_same_bytes() -> None:
    if DEVICE.type != "cuda":  # test_precompile.py does it on a CPU
        return
    with tempfile.TemporaryDirectory() as name:
        release, cache = make_tiny_release(Path(name) / "release"), Path(name) / "cache"
        cache.write_bytes(compile_apart(Networks(str(release), 8, 8, "cuda", "bf16-compiled"), 150))
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", SECOND, str(release), str(cache)],
                env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{name}/{number}"}, stdout=subprocess.PIPE, text=True,
            )
            for number in range(2)
        ]  # fmt: skip
        first, second = (process.communicate(timeout=120)[0] for process in processes)
    assert first == second
    assert first.startswith("0 cuda/"), "torch compiled again"
    assert "/bfloat16/compiled-" in first
