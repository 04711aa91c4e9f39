"""Two models are told apart when they differ, and only then."""

from functools import partial

import pytest
import torch
from torch import Tensor

from training.metrics import distributions, paired


def normal(rows: int, seed: int, width: int = 8) -> Tensor:
    return torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


ONCE = torch.ones(1, 300, dtype=torch.float64)


def test_the_figures_of_the_whole_set_are_those_of_one_set() -> None:
    images, real = normal(300, 0) * 1.2, normal(500, 1)
    assert float(paired.frechet_distance(images, real, ONCE)) == pytest.approx(
        distributions.frechet_distance(real, images), rel=1e-10
    )
    of_real = paired.mean_kernel(real, torch.ones(1, 500, dtype=torch.float64))
    assert float(paired.kernel_distance(images, real, ONCE, of_real)) == pytest.approx(
        distributions.kernel_distance(real, images)[0], rel=1e-9
    )
    zeros = torch.zeros(300, dtype=torch.int64), torch.zeros(500, dtype=torch.int64)
    assert float(paired.coverage(images, real, ONCE, *zeros)) == distributions.density_coverage(real, images)[1]
    apart = torch.cdist(images, images)
    assert float(paired.spread(images, ONCE, zeros[0])) == pytest.approx(float(apart.sum()) / (300 * 299), rel=1e-10)


def test_a_resampling_is_the_set_that_it_draws() -> None:
    images, real = normal(300, 0), normal(400, 1)
    counts = paired.resample(300, 10, 3)[5:6]
    assert counts.sum() == 300
    drawn = images.repeat_interleave(counts[0].long(), dim=0)
    zeros = torch.zeros(300, dtype=torch.int64), torch.zeros(400, dtype=torch.int64)
    assert float(paired.frechet_distance(images, real, counts)) == pytest.approx(
        float(paired.frechet_distance(drawn, real, ONCE)), rel=1e-9
    )
    for score in (paired.sliced_wasserstein, paired.coverage):
        assert float(score(images, real, counts, *zeros)) == pytest.approx(
            float(score(drawn, real, ONCE, *zeros)), rel=1e-9
        )


def test_sliced_wasserstein_of_a_shift_is_its_mean_over_directions() -> None:
    # Along a direction u a shift of s moves every projection by s.u, whose mean square is |s|^2 / D.
    real = normal(300, 0, width=2)
    zeros = torch.zeros(300, dtype=torch.int64), torch.zeros(300, dtype=torch.int64)
    found = float(paired.sliced_wasserstein(real + torch.tensor([3.0, 0.0]), real, ONCE, *zeros))
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(2, paired.PROJECTIONS, dtype=torch.float64, generator=generator)
    along = 3 * axes[0] / axes.norm(dim=0)
    assert found == pytest.approx(float(along.square().mean().sqrt()), rel=0.01)
    assert float(paired.sliced_wasserstein(real, real, ONCE, *zeros)) == pytest.approx(0, abs=1e-9)


def test_sets_are_compared_within_conditions() -> None:
    real = torch.cat([normal(200, 0), normal(200, 1) + 20])
    shown = torch.arange(2).repeat_interleave(200)
    requested = torch.arange(2).repeat_interleave(150)
    right = torch.cat([normal(150, 2), normal(150, 3) + 20])
    swapped = right.roll(150, 0)
    everywhere = torch.zeros(300, dtype=torch.int64), torch.zeros(400, dtype=torch.int64)
    assert paired.coverage(swapped, real, ONCE, *everywhere) > 0.7
    assert paired.coverage(swapped, real, ONCE, requested, shown) == 0
    assert paired.coverage(right, real, ONCE, requested, shown) > 0.7
    assert paired.sliced_wasserstein(swapped, real, ONCE, *everywhere) < 1
    assert paired.sliced_wasserstein(swapped, real, ONCE, requested, shown) > 19
    assert paired.spread(right, ONCE, requested) < 6 < paired.spread(right, ONCE, everywhere[0])


def simulate(seed: int, worse: float, images: int = 250) -> tuple[Tensor, Tensor, Tensor]:
    """Images of two models whose answers to a seed are alike, and real ones; a share of the first's is spoilt."""
    common, real = normal(images, 10 * seed), normal(500, 10 * seed + 1)
    first = 0.9 * common + 0.3 * normal(images, 10 * seed + 2)
    second = 0.9 * common + 0.3 * normal(images, 10 * seed + 3)
    spoilt = torch.rand(images, generator=torch.Generator().manual_seed(seed)) < worse
    first[spoilt] = 2.5 * normal(images, 10 * seed + 4)[spoilt] + 1
    return first, second, real


def test_equal_models_are_rarely_told_apart_and_a_worse_one_mostly_is() -> None:
    compare = partial(paired.compare, resamplings=40)
    verdicts = [paired.summarise(compare(*simulate(seed, 0.0))) for seed in range(12)]
    assert verdicts.count("cannot tell") >= 11
    found = [compare(*simulate(seed, 0.08)) for seed in range(4)]
    assert [paired.summarise(one) for one in found].count("worse") >= 3
    sliced = {one.name: one for one in found[0]}["sliced_wasserstein_distance"]
    assert sliced.verdict == "worse"
    assert sliced.low > 0
    assert sliced.detectable < sliced.first - sliced.second


def test_obedience_is_compared_image_by_image() -> None:
    first, second, real = simulate(1, 0.0)
    obeys = torch.ones(250)
    one_in_ten = (torch.arange(250) % 10 > 0).float()
    found = {d.name: d for d in paired.compare(first, second, real, obedience={"class": (one_in_ten, obeys)})}
    assert found["class"].first == pytest.approx(0.9)
    assert found["class"].second == 1
    assert found["class"].verdict == "worse"
    assert found["kernel_distance"].verdict == "cannot tell"
    same = {d.name: d for d in paired.compare(first, second, real, obedience={"class": (obeys, obeys)})}
    assert same["class"].verdict == "cannot tell"


def test_sets_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="images: 300 and 299; both models need as many"):
        paired.compare(normal(300, 0), normal(299, 1), normal(400, 2))
    with pytest.raises(ValueError, match="at least 32"):
        paired.compare(normal(20, 0), normal(20, 1), normal(400, 2))
