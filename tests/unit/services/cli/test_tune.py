"""`darkroom tune` on a CPU, with a tiny release."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from services.cli import app
from services.worker import tuning
from services.worker.self_test import SelfTest
from services.worker.tuning import Usage, best_of
from tests.support.releases import make_small_release


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_release(tmp_path_factory.mktemp("tune") / "release")


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps."""
    monkeypatch.setattr(tuning, "MEASURED_S", 0.0)


def tune(release: Path, *options: str) -> str:
    done = CliRunner().invoke(app, ["tune", str(release), "--device", "cpu", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_table_marks_the_best_rows_and_ends_with_values_of_the_chart(release: Path) -> None:
    table, _, values = tune(release, "--most", "5").partition("Values of the chart:")
    lines = table.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["2", "4"]
    (best,) = [line for line in lines if line.endswith("best")]
    assert "images/s at 20 steps" in lines[0]
    pool = yaml.safe_load(values)["workerPools"]["default"]
    assert pool == {"rows": int(best.split()[0]), "profile": "auto", "device": "cpu"}


def test_json_has_every_measurement_and_memory_ends_it(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = SelfTest.check_step

    def limit(self: SelfTest, take_step: object, null: object, rows: int) -> None:
        if rows > 2:
            raise MemoryError
        check(self, take_step, null, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(SelfTest, "check_step", limit)
    answer = json.loads(tune(release, "--json", "--profile", "bf16"))
    assert answer["best_rows"] == 2
    assert answer["values"] == {"rows": 2, "profile": "bf16", "device": "cpu"}
    assert "/bfloat16/eager/2+2+1rows#" in answer["profile"]
    (only,) = answer["measured"]
    assert only["rows"] == 2
    assert min(only.values()) > 0
    taken = only["step_s"] * answer["steps"] * answer["rows_an_image"] / 2 + only["decode_s"] / only["decode_rows"]
    assert only["images_per_s"] == pytest.approx(1 / taken)


def test_the_best_rows_are_the_fewest_that_are_nearly_as_fast_as_any() -> None:
    steps = {2: 0.2, 4: 0.22, 8: 0.3, 16: 0.59, 32: 1.17}
    usages = [Usage(rows, 1, step_s, 0.0, 1, "profile") for rows, step_s in steps.items()]
    assert best_of(usages, 20, 2).rows == 8


def test_a_release_that_cannot_be_measured_is_refused(tmp_path: Path, release: Path) -> None:
    done = CliRunner().invoke(app, ["tune", str(release), "--device", "cpu", "--most", "1"])
    assert done.exit_code == 2
