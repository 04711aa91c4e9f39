"""How a release is sampled for an evaluation: as asked, else as the service samples it."""

import math
from dataclasses import replace
from typing import Any

import pytest

from training.evaluation.second_stage import GUIDANCE, Sampling, complete_sampling
from training.model.release import Distilled, Release

CONDITIONS: dict[str, Any] = {"properties": {"class_label": {}}, "guided": True}
PLAIN = Release("digits", "diffusion", {}, (1, 32, 32), (2, 8, 8), CONDITIONS)
DISTILLED = Release(
    "few", "diffusion", {}, (1, 32, 32), (2, 8, 8),
    {**CONDITIONS, "distilled": Distilled((1, 2, 4, 8), (1.0, 4.0), 4, 2.0).to_json()},
)  # fmt: skip


def test_without_a_guidance_it_is_that_of_the_service() -> None:
    assert complete_sampling(Sampling(), PLAIN) == Sampling(guidance=GUIDANCE)
    assert complete_sampling(Sampling(guidance=3.0, steps=7), PLAIN) == Sampling(guidance=3.0, steps=7)


def test_a_guidance_of_0_is_the_null_condition_alone() -> None:
    assert complete_sampling(Sampling(guidance=0), PLAIN) == Sampling(guidance=0)


def test_no_sampling_has_more_steps_than_the_training_had_timesteps() -> None:
    hundred = replace(PLAIN, architecture={"diffusion": {"timesteps": 100}})
    assert complete_sampling(Sampling(steps=100), hundred).steps == 100
    with pytest.raises(ValueError, match="steps: 101 is not allowed for digits; permitted: 1 to 100, its timesteps"):
        complete_sampling(Sampling(steps=101), hundred)


@pytest.mark.parametrize("guidance", [-1.0, math.inf, math.nan])
def test_a_guidance_that_no_request_may_have_is_refused(guidance: float) -> None:
    with pytest.raises(ValueError, match=f"guidance: {guidance:g} is not allowed; permitted: a number from 0"):
        Sampling(guidance=guidance)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (Sampling(), Sampling(solver="shortcut", steps=4, guidance=2.0)),
        (Sampling(steps=8), Sampling(solver="shortcut", steps=8, guidance=2.0)),
        (Sampling(solver="shortcut", steps=1, guidance=1.0), Sampling(solver="shortcut", steps=1, guidance=1.0)),
    ],
)
def test_a_distilled_release_is_sampled_at_its_best_unless_asked_otherwise(given: Sampling, used: Sampling) -> None:
    assert complete_sampling(given, DISTILLED) == used


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Sampling(solver="heun"), "solver: 'heun' is not allowed for few; permitted: shortcut"),
        (Sampling(steps=3), "steps: 3 is not allowed for few; permitted: 1, 2, 4, 8"),
        (Sampling(guidance=4.5), "guidance: 4.5 is not allowed for few; permitted: 1 to 4"),
        (Sampling(guidance=0.5), "guidance: 0.5 is not allowed for few; permitted: 1 to 4"),
        (Sampling(guidance=0), "guidance: 0 is not allowed for few; permitted: 1 to 4"),
    ],
)
def test_what_a_distilled_release_does_not_permit_is_told(given: Sampling, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        complete_sampling(given, DISTILLED)
