"""Stable Diffusion's files, read here and by diffusers' own converters: whole sampling runs are equal."""

from pathlib import Path

import pytest

from tests.support.comparison import relative_error
from tests.support.stable_diffusion_runs import KINDS, import_files, sample_here, sample_there
from training.model import release


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampling_run_equals_that_of_diffusers(kind: str, tmp_path: Path) -> None:
    folder, parts = import_files(kind, tmp_path)
    assert release.read(folder).guided, "texts were dropped in training"
    assert release.read(folder).lineage["latent_scale"]["value"] == pytest.approx(0.18215)
    expected = sample_there(parts, KINDS[kind].get("prediction", "eps"))
    assert relative_error(sample_here(folder), expected) < 1e-4
