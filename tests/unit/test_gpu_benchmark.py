"""`make gpu` measures what it says, and is rehearsed here with its smallest sizes on a CPU."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks import gpu
from tests.benchmarks.gpu import PARTS, SHARED

pytestmark = pytest.mark.long


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # in diffusers
@pytest.mark.parametrize("name", sorted(set(PARTS) - {"tests"}))
def test_each_part_runs_with_its_smallest_sizes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARED, str(tmp_path))
    found: dict[str, float] = {}
    PARTS[name].load()(True, found.__setitem__)
    assert found
    assert all(value >= 0 for value in found.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--out", str(tmp_path / "out")])
    assert "There is no GPU here" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_part_that_hangs_or_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "PARTS", {name: replace(part, limit_s=0.01) for name, part in PARTS.items()})
    gpu.main(["--smallest", "--out", str(tmp_path), "--only", "limits", "bytes"])
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert set(written["parts"]) == {"limits", "bytes"}
    assert all(part["error"] == "not finished in 0 s" for part in written["parts"].values())
    assert (tmp_path / "gpu.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize("end", ["raise ValueError('no more')", "import time; time.sleep(60)"])
def test_what_was_measured_before_a_failure_is_kept(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = f"from tests.benchmarks.gpu import report; report('first', 1.23456); {end}"
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: popen([command[0], "-c", begin], **how))
    found = gpu.run_part("limits", 600 if "raise" in end else 20, True)
    assert found["first"] == 1.235
    if "raise" in end:
        assert found["error"] == "exit code 1: ValueError: no more"
        assert "Traceback" in found["trace"][0]
    else:
        assert found["error"] == "not finished in 20 s"


def run_first(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the processes of parts run this code first."""
    popen, code = subprocess.Popen, f"import time; from tests.benchmarks import gpu, gpu_parts; {code}; gpu.main()"
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **how: popen([command[0], "-c", code, *command[3:]], **how)
    )


def test_a_failure_is_printed_with_its_traceback_and_a_part_without_times_is_run_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_to_start(name: str, *given: Any, **environment: Any) -> dict[str, Any]:
        if name == "networks":
            raise MemoryError("no process can be started")
        begun.append(name)
        return real(name, *given, **environment)

    begun: list[str] = []
    real = gpu.run_part
    monkeypatch.setattr(gpu, "run_part", fail_to_start)
    run_first(monkeypatch, "del gpu_parts.same_bytes")
    gpu.main(["--smallest", "--out", str(tmp_path), "--only", "bytes", "networks", "limits"])
    printed, parts = capsys.readouterr().out, json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert begun == ["bytes", "limits", "bytes"]
    assert "    Traceback (most recent call last):" in printed
    assert "networks: MemoryError: no process can be started" in printed
    assert parts["networks"]["error"] == "MemoryError: no process can be started"
    for key in ("error", "alone, error"):
        assert parts["bytes"][key].startswith("exit code 1: AttributeError:")
    assert parts["limits"]["bf16 256^3 matrix product, TFLOP/s"] > 0


def test_a_part_that_hangs_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    run_first(monkeypatch, "gpu_parts.limits = lambda *given: time.sleep(600)")
    found = gpu.run_part("limits", 60, True)
    assert found["error"] == "not finished in 60 s"
    assert any("in <lambda>" in line for line in found["trace"])
