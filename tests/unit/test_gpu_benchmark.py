"""`make gpu` measures what it says, and is rehearsed here with its smallest sizes on a CPU."""

import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu
from tests.benchmarks.gpu_parts import PARTS, Part


@pytest.mark.parametrize("name", sorted(PARTS))
def test_each_part_runs_with_its_smallest_sizes(name: str) -> None:
    found = PARTS[name].run(True)
    assert found
    assert all(isinstance(value, int | float) and value >= 0 for value in found.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--out", str(tmp_path / "out")])
    assert "There is no GPU here" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_part_that_hangs_or_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "PARTS", {name: Part(part.run, 0.01) for name, part in PARTS.items() if name != "memory"})
    gpu.main(["--smallest", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert set(written["parts"]) == set(PARTS) - {"memory"}
    assert all(part == {"error": "not finished in 0 s"} for part in written["parts"].values())
    assert (tmp_path / "gpu.md").read_text() in capsys.readouterr().out
