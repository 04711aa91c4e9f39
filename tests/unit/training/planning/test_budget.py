"""How the time is divided: the whole fits, and a time that is too short is refused."""

from dataclasses import replace

import pytest

from training.planning.budget import FIRST, USED, Start, Work, divide, stage_seconds
from training.planning.survey import PlanError
from training.planning.timing import Timings

TIMINGS = Timings(first_step=0.2, second_step=0.25, denoise=0.002, encode=0.001, decode=0.001, classifier_step=0.01)
WORK = Work(images=2000, held_out=100, read=0.002, start=Start(8.0, 1.0), first_trained=True)


@pytest.mark.parametrize("minutes", [5, 10, 40, 600])
def test_all_stages_together_take_the_planned_share_of_the_time(minutes):
    budget = divide(WORK, TIMINGS, minutes, spent=20)
    assert budget.total == pytest.approx(USED * (60 * minutes - 20), rel=0.02)
    share = budget.first_steps * TIMINGS.first_step
    assert share <= FIRST * budget.total
    assert 64 <= budget.samples <= 1000


def test_a_first_stage_that_is_not_trained_leaves_its_time_to_the_second():
    alone = divide(Work(2000, 100, 0.002, Start(8.0, 1.0), False), TIMINGS, 10, spent=0)
    both = divide(WORK, TIMINGS, 10, spent=0)
    assert alone.first_steps == 1
    assert alone.second_steps > 1.3 * both.second_steps


def test_a_time_that_is_too_short_is_refused_with_the_least():
    with pytest.raises(PlanError) as error:
        divide(WORK, TIMINGS, 1, spent=20)
    assert str(error.value).startswith("--minutes: 1 is not allowed; permitted for these pictures on this machine: at ")
    least = int(str(error.value).partition("at least ")[2].partition(",")[0])
    assert divide(WORK, TIMINGS, least, spent=20).second_steps >= 200
    with pytest.raises(PlanError):
        divide(WORK, TIMINGS, least - 1, spent=20)


@pytest.mark.parametrize(
    ("step", "most"), [(0.01, "starting, preparing and evaluating"), (60.0, "the fewest steps of training, 300")]
)
def test_the_refusal_says_what_the_time_is_needed_for(step, most):
    with pytest.raises(PlanError, match=f"as busy as it is now, most of it for {most}$"):
        divide(WORK, replace(TIMINGS, first_step=0.01, second_step=step), 0.5, spent=20)


def test_a_tuned_release_takes_few_steps_and_is_evaluated_beside_its_base():
    published = Work(20, 4, 0.002, Start(8.0, 1.0), False, published=True)
    tuned = replace(published, tuned=True, least_second=50, most_second=300)
    long, short = divide(tuned, TIMINGS, 600, spent=0), divide(tuned, TIMINGS, 2, spent=0)
    assert (long.second_steps, long.samples) == (300, 1000)
    assert 50 <= short.second_steps < 300
    assert long.total < 60 * 600 / 2
    one, two = (stage_seconds(work, TIMINGS, 1, 100, 64)["evaluate"] for work in (published, tuned))
    assert two == pytest.approx(2 * one - WORK.start.stage)


def test_few_steps_are_a_sketch_and_many_are_good():
    assert not divide(WORK, TIMINGS, 5, spent=0).is_good
    assert divide(WORK, TIMINGS, 40, spent=0).is_good
