"""Compares two sets of images by their features, matrices [N, D] and [M, D]. All sums are in float64.

Every figure depends on the network of the features and on the number of images. Compare only figures of the same
network and the same counts, and report those of two sets of real images with them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 512  # rows of one set that are compared with all of the other at once


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the Fréchet distance of Gaussians fitted to both sets (Heusel et al. 2017, eq. 6).

        |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^1/2)

    With A = Ra' Ra and B = Rb' Rb, the eigenvalues of A B are the squared singular values of Ra Rb'. Their sum needs no
    root of a matrix, so singular covariances (N <= D) are exact as well.

    It is biased upwards for few images: two draws of N from one Gaussian of unit covariance are about
    D (D + 5) / (2 N) apart, not 0. Raises ValueError for fewer than two rows.
    """
    a, b = validate(a, b, 2)
    root_a, root_b = covariance_root(a), covariance_root(b)
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    spread = root_a.square().sum() + root_b.square().sum() - 2 * cross  # never negative but for rounding
    return float((a.mean(0) - b.mean(0)).square().sum() + spread.clamp(min=0))


def covariance_root(features: Tensor) -> Tensor:
    """Return R [min(N, D), D], where R' R is the covariance of the rows, with N - 1 in the denominator."""
    centred = features - features.mean(0)
    root: Tensor = torch.linalg.qr(centred / (len(features) - 1) ** 0.5, mode="r").R
    return root


def kernel_distance(a: Tensor, b: Tensor, *, subsets: int = 100, seed: int = 0) -> tuple[float, float]:
    """Squared maximum mean discrepancy for the kernel (x . y / D + 1)^3 (KID, Binkowski et al. 2018), and its error.

    The estimator is unbiased (Gretton et al. 2012, eq. 3), so equal distributions give 0 on average and values below 0
    occur; where classes were dealt evenly to both sets, not by chance, even the average is below 0. All pairs count:
    the usual mean over random subsets tends to this as the subsets become many. The standard error is the deviation
    over random halves of both sets (the delete-half jackknife, Shao & Wu 1989), which near 0 can be relied on where
    leaving out single images cannot. Raises ValueError for fewer than four rows.
    """
    a, b = validate(a, b, 4)
    generator = torch.Generator().manual_seed(seed)
    in_a, in_b = (halves(len(x), subsets, generator) for x in (a, b))
    n, m = in_a.sum(0), in_b.sum(0)  # [1 + subsets]
    within_a = (pair_sums(a, in_a, a, in_a) - kernel_diagonal(a) @ in_a) / (n * (n - 1))
    within_b = (pair_sums(b, in_b, b, in_b) - kernel_diagonal(b) @ in_b) / (m * (m - 1))
    found = within_a + within_b - 2 * pair_sums(a, in_a, b, in_b) / (n * m)
    return float(found[0]), float(found[1:].std())


def halves(rows: int, subsets: int, generator: torch.Generator) -> Tensor:
    """Return which rows count, 1 or 0: all, then a random half `subsets` times: [rows, 1 + subsets]."""
    ranks = torch.rand(rows, subsets, generator=generator).argsort(0)
    return torch.cat([torch.ones(rows, 1), ranks < rows // 2], 1).double()


def pair_sums(a: Tensor, in_a: Tensor, b: Tensor, in_b: Tensor) -> Tensor:
    """Return the sum of the kernel over all pairs of each subset's rows of `a` and of `b`: [1 + subsets]."""
    sums = torch.zeros(in_a.shape[1], dtype=torch.float64)
    for block, counts in zip(torch.split(a, BLOCK), torch.split(in_a, BLOCK), strict=True):
        sums += (counts * ((block @ b.T / a.shape[1] + 1) ** 3 @ in_b)).sum(0)
    return sums


def kernel_diagonal(a: Tensor) -> Tensor:
    """Return the kernel of each row with itself: [N]."""
    return (a.square().mean(1) + 1) ** 3


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) || p(y)) (Salimans et al. 2016, section 4): mean and standard deviation over splits.

    probabilities: of K classes for each image, [N, K]. At least 1, at most K. Images are dealt to the splits in a fixed
    random order, because requests tend to be sorted by class. Raises ValueError for fewer images than splits.
    """
    if len(probabilities) < splits:
        raise ValueError(f"images: {len(probabilities)}; the Inception score over {splits} splits needs {splits}")
    order = torch.randperm(len(probabilities), generator=torch.Generator().manual_seed(0))
    parts = probabilities.double().cpu()[order].tensor_split(splits)
    entropies = torch.stack([entropy(part.mean(0)) - entropy(part).mean() for part in parts])
    scores = entropies.exp()
    return float(scores.mean()), float(scores.std(correction=0))


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy over the last dimension, in nats."""
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(-1)


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Return precision and recall (Kynkaanniemi et al. 2019, eq. 2).

    The share of generated images among real ones, and of real images among generated ones.

    A point is among others if it is as near to one of them as that one's k-th nearest neighbour of
    its own kind. Raises ValueError for no more than `neighbours` rows.
    """
    real, generated = validate(real, generated, neighbours + 1)
    return share_among(generated, real, neighbours), share_among(real, generated, neighbours)


def share_among(points: Tensor, others: Tensor, neighbours: int) -> float:
    """Return the share of `points` within the radius of any of `others`."""
    radii = own_radii(others, neighbours)
    return float(torch.cat([(d <= radii).any(1) for d in distances(points, others)]).double().mean())


def density_coverage(real: Tensor, generated: Tensor, neighbours: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020), which are less sensitive to outliers than precision and recall.

    Density: in how many real balls a generated image lies, over k; it may exceed 1. Coverage: the share of real balls
    with a generated image in them. Raises ValueError for no more than `neighbours` rows.
    """
    real, generated = validate(real, generated, neighbours + 1)
    radii = own_radii(real, neighbours)
    inside = sum((d <= radii).sum(0) for d in distances(generated, real))  # [N]: generated images in each ball
    counts = torch.as_tensor(inside).double()
    return float(counts.sum() / (neighbours * len(generated))), float((counts > 0).double().mean())


def nearest(features: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row of `among` nearest to each of `features`, and its distance: [N] int64 and [N] float64.

    To find copies of training images, compare the distances with those of held-out images to the same training set.
    """
    features, among = validate(features, among, 1)
    found = [block.min(1) for block in distances(features, among)]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])


def own_radii(features: Tensor, neighbours: int) -> Tensor:
    """Return the distance of each row to its k-th nearest other row: [N]."""
    return torch.cat([d.kthvalue(neighbours + 1, dim=1).values for d in distances(features, features)])  # 1st: itself


def distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Yield Euclidean distances of all rows of `a` to all of `b`, in blocks [BLOCK, M]; exactly 0 for equal rows."""
    for block in torch.split(a, BLOCK):
        yield torch.cdist(block, b, compute_mode="donot_use_mm_for_euclid_dist")


def validate(a: Tensor, b: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Return both as float64 on the CPU. Raises ValueError unless there are enough rows, of one width, all finite."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features: {tuple(a.shape)} and {tuple(b.shape)}; two matrices of as many columns are needed")
    if min(len(a), len(b)) < least:
        raise ValueError(f"images: {len(a)} and {len(b)}; at least {least} of each are needed")
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features: some are not finite")
    return a, b
