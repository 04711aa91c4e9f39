"""What an image costs is what the solvers do."""

import pytest

from services.job_requests.image_spec import ImageSpec, image_cost
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.solvers import SOLVERS, build
from training.model.spacing import SPACINGS, levels

DIFFUSION = Diffusion(DiffusionConfig())


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("spacing", sorted(SPACINGS))
def test_an_unguided_image_costs_the_length_of_its_trajectory(solver: str, spacing: str) -> None:
    for steps in (1, 2, 3, 8, 20, 60):
        trajectory = build(solver, levels(DIFFUSION, steps, spacing), DIFFUSION)
        assert image_cost(ImageSpec(0, 0, 0, steps, solver, 1.0, spacing)) == len(trajectory), steps


def test_a_schedule_that_ends_in_pure_noise_saves_at_most_one_evaluation() -> None:
    diffusion = Diffusion(DiffusionConfig(schedule="flow", parameterisation="flow"))
    for solver, spacing in ((solver, spacing) for solver in SOLVERS for spacing in SPACINGS):
        trajectory = build(solver, levels(diffusion, 8, spacing), diffusion)
        saved = image_cost(ImageSpec(0, 0, 0, 8, solver, 1.0, spacing)) - len(trajectory)
        assert 0 <= saved <= 1, (solver, spacing)
