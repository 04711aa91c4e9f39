"""Compares two models by their images of the same requests and seeds, in the feature space of a network.

A figure of a set is a number without its error. Here each is computed for both models over the same resamplings of the
requests (the paired bootstrap, Efron & Tibshirani 1993, chapter 8): what both models have in common, the luck of the
draw included, cancels in the difference.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from training.metrics.distributions import distances, kernel_diagonal, own_radii, pair_sums, validate

RESAMPLINGS = 200
PROJECTIONS = 64
NEIGHBOURS = 5
MOST_FEATURES = 512  # of a Fréchet distance: each resampling decomposes a matrix of this size
POWER = 0.9

Score = Callable[[Tensor, Tensor], Tensor]  # features [N, D], counts [B, N] -> [B]


@dataclass(frozen=True)
class Difference:
    """A figure of two models. low, high: an interval of the difference that holds for all figures together.

    higher_is_better: None for a figure that is good at neither end. detectable: the size of a true difference that a
    comparison like this one finds in 90 % of cases.
    """

    name: str
    higher_is_better: bool | None
    first: float
    second: float
    low: float
    high: float
    detectable: float

    @property
    def verdict(self) -> str:
        """What the first model is beside the second: better, worse, or cannot tell; for spread, larger or smaller."""
        if self.low <= 0 <= self.high:
            return "cannot tell"
        if self.higher_is_better is None:
            return "larger" if self.first > self.second else "smaller"
        return "better" if (self.first > self.second) == self.higher_is_better else "worse"


def compare(
    first: Tensor,
    second: Tensor,
    real: Tensor,
    conditions: tuple[Tensor, Tensor] | None = None,
    obedience: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    *,
    confidence: float = 0.95,
    resamplings: int = RESAMPLINGS,
    seed: int = 0,
) -> list[Difference]:
    """Compare features of two models' images, both [N, D], row i of the same request and seed, with real ones [M, D].

    conditions: a number of each request, [N], and of each real image, [M]: the sliced distance, coverage and spread are
    then those within a condition. obedience: values of each image by the figure's name, [N] and [N]; higher is better.
    confidence: that no interval misses its difference (Bonferroni). Raises ValueError for sets of other sizes, or of
    fewer than 32.
    """
    first, real = validate(first, real, 32)
    second, _ = validate(second, real, 32)
    if len(first) != len(second):
        raise ValueError(f"images: {len(first)} and {len(second)}; both models need as many, of the same requests")
    counts = resample(len(first), resamplings, seed)
    scores = figures(real, conditions)
    found: dict[str, tuple[bool | None, Tensor, Tensor]] = {
        name: (higher, score(first, counts), score(second, counts)) for name, (higher, score) in scores.items()
    }
    for name, (a, b) in (obedience or {}).items():
        found[name] = (True, counts @ a.double() / len(a), counts @ b.double() / len(b))
    normal = NormalDist()
    sure = normal.inv_cdf(1 - (1 - confidence) / (2 * len(found)))
    return [
        _difference(name, higher, a, b, sure, sure + normal.inv_cdf(POWER)) for name, (higher, a, b) in found.items()
    ]


def _difference(name: str, higher: bool | None, a: Tensor, b: Tensor, sure: float, powerful: float) -> Difference:
    deviation = float((a - b)[1:].std())
    observed = float(a[0] - b[0])
    return Difference(
        name, higher, float(a[0]), float(b[0]), observed - sure * deviation, observed + sure * deviation,
        powerful * deviation,
    )  # fmt: skip


def summarise(differences: Sequence[Difference]) -> str:
    """Return the verdict over all figures: better, worse, cannot tell, or mixed."""
    verdicts = {one.verdict for one in differences if one.higher_is_better is not None} - {"cannot tell"}
    return verdicts.pop() if len(verdicts) == 1 else "mixed" if verdicts else "cannot tell"


def resample(images: int, resamplings: int, seed: int) -> Tensor:
    """Return how often each image counts: once, then in draws with replacement: [1 + resamplings, N]."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(images, (resamplings, images), generator=generator)
    counts = torch.zeros(resamplings, images, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return torch.cat([torch.ones(1, images, dtype=torch.float64), counts])


# -- the figures -----------------------------------------------------------------------------------


def figures(real: Tensor, conditions: tuple[Tensor, Tensor] | None) -> dict[str, tuple[bool | None, Score]]:
    """Return each figure by name: whether higher is better, and its function."""
    requested, shown = conditions or (None, torch.zeros(len(real), dtype=torch.int64))
    of_real = mean_kernel(real, torch.ones(1, len(real), dtype=torch.float64))

    def within(score: Callable[..., Tensor]) -> Score:
        def of_all(features: Tensor, counts: Tensor) -> Tensor:
            groups = torch.zeros(len(features), dtype=torch.int64) if requested is None else requested
            return score(features, real, counts, groups, shown)

        return of_all

    found: dict[str, tuple[bool | None, Score]] = {
        "kernel_distance": (False, lambda features, counts: kernel_distance(features, real, counts, of_real)),
        "sliced_wasserstein_distance": (False, within(sliced_wasserstein)),
        "coverage": (True, within(coverage)),
        "spread": (None, within(relative_spread)),
    }
    if real.shape[1] <= MOST_FEATURES:
        found = {
            "frechet_distance": (False, lambda features, counts: frechet_distance(features, real, counts)),
            **found,
        }
    return found


def frechet_distance(features: Tensor, real: Tensor, counts: Tensor) -> Tensor:
    """Return the Fréchet distance to `real` for each row of counts (Heusel et al. 2017, eq. 6): [B]."""
    mean, covariance = real.mean(0), real.T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    found = []
    for weights in counts:
        centre = weights @ features / weights.sum()
        apart = features - centre
        spread = (apart * weights[:, None]).T @ apart / (weights.sum() - 1)
        cross = torch.linalg.eigvalsh(root @ spread @ root).clamp(min=0).sqrt().sum()
        found.append((centre - mean).square().sum() + spread.trace() + covariance.trace() - 2 * cross)
    return torch.stack(found)


def kernel_distance(features: Tensor, real: Tensor, counts: Tensor, of_real: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy to `real` (Binkowski et al. 2018) for each row of counts: [B].

    of_real: `mean_kernel` of the real images.
    """
    every = torch.ones(len(real), 1, dtype=torch.float64)
    between = pair_sums(features, counts.T, real, every) / (counts.sum(1) * len(real))
    return mean_kernel(features, counts) + of_real - 2 * between


def mean_kernel(features: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of the kernel over pairs of different images, for each row of counts: [B]."""
    pairs = pair_sums(features, counts.T, features, counts.T) - counts @ kernel_diagonal(features)
    return pairs / (counts.sum(1) * (counts.sum(1) - 1))


def sliced_wasserstein(features: Tensor, real: Tensor, counts: Tensor, requested: Tensor, shown: Tensor) -> Tensor:
    """Return the sliced 2-Wasserstein distance to `real` (Bonneel et al. 2015) for each row of counts: [B].

    It is the root of the mean over PROJECTIONS fixed directions, and over conditions, of the squared distance of sorted
    projections. It sees whole distributions, where a Fréchet distance sees two moments.
    """
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(real.shape[1], PROJECTIONS, dtype=torch.float64, generator=generator)
    axes = axes / axes.norm(dim=0)
    total, images = torch.zeros(len(counts), dtype=torch.float64), 0
    for made, own in _groups(requested, shown):
        count, among = int(made.sum()), int(own.sum())
        shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count  # of sorted images
        places = (shares * among - 0.5).clamp(0, among - 1)
        below, part = places.long(), places.frac()
        weights = counts[:, made]
        drawn = shares * weights.sum(1, keepdim=True)
        for projected, of_real in zip((features[made] @ axes).T, (real[own] @ axes).T, strict=True):
            sorted_real = of_real.sort().values
            wanted = sorted_real[below].lerp(sorted_real[(below + 1).clamp(max=among - 1)], part)
            ordered, order = projected.sort()
            found = torch.searchsorted(weights[:, order].cumsum(1), drawn).clamp(max=count - 1)
            total += (ordered[found] - wanted).square().sum(1)
        images += count
    return (total / (PROJECTIONS * max(images, 1))).sqrt()


def coverage(features: Tensor, real: Tensor, counts: Tensor, requested: Tensor, shown: Tensor) -> Tensor:
    """Return the share of real images with a generated one of their condition near them, for each row of counts: [B].

    Near is within the distance of the NEIGHBOURS-th nearest real image of the condition (Naeem et al. 2020). Conditions
    with fewer real images do not count.
    """
    covered, images = torch.zeros(len(counts), dtype=torch.float64), 0
    present = (counts > 0).float()
    for made, own in _groups(requested, shown):
        radii = own_radii(real[own], NEIGHBOURS)
        inside = torch.cat([(d <= radii) for d in distances(features[made], real[own])]).float()
        covered += ((present[:, made] @ inside) > 0).double().sum(1)
        images += int(own.sum())
    return covered / max(images, 1)


def _groups(requested: Tensor, shown: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each condition which generated and which real images have it, unless the real ones are too few."""
    for condition in sorted(set(requested.tolist())):
        own = shown == condition
        if own.sum() > NEIGHBOURS:
            yield requested == condition, own


def relative_spread(features: Tensor, real: Tensor, counts: Tensor, requested: Tensor, shown: Tensor) -> Tensor:
    """Return `spread` over that of the real images, for each row of counts: [B]. A model that collapses is below 1."""
    return spread(features, counts, requested) / spread(real, torch.ones(1, len(real), dtype=torch.float64), shown)


def spread(features: Tensor, counts: Tensor, requested: Tensor) -> Tensor:
    """Return the mean distance of two images of one condition, for each row of counts: [B]."""
    total, pairs = (torch.zeros(len(counts), dtype=torch.float64) for _ in range(2))
    for group in sorted(set(requested.tolist())):
        rows = requested == group
        own, weights = features[rows], counts[:, rows]
        apart = torch.cat(list(distances(own, own)))
        total += ((weights @ apart) * weights).sum(1)
        pairs += weights.sum(1) ** 2 - weights.square().sum(1)  # an image drawn twice is no pair
    return total / pairs.clamp(min=1)
