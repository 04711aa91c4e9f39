"""Every figure against another way to it: a closed form, brute force, and the programs that are used for papers.

The figures of torch-fidelity 0.4.0 were taken once, for it needs a package that torch's CPU build cannot load.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from training.data.image_set import ImageSet
from training.metrics import distributions
from training.metrics.classifier import Classifier


def drawn(key: int, rows: int, columns: int) -> Tensor:
    generator = np.random.Generator(np.random.Philox(key=[7, key]))
    return torch.from_numpy(generator.standard_normal((rows, columns)))


def two_sets() -> tuple[Tensor, Tensor]:
    return drawn(0, 200, 12), 1.2 * drawn(1, 200, 12) + 0.3


# -- Frechet distance ----------------------------------------------------------------------------


def by_matrix_root(a: Tensor, b: Tensor) -> float:
    """Heusel et al. 2017, eq. 6, as written."""
    covariances = [np.cov(x.numpy(), rowvar=False) for x in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1])
    difference = a.numpy().mean(0) - b.numpy().mean(0)
    return float(difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root.real))


def by_symmetric_root(a: Tensor, b: Tensor) -> float:
    """The same with tr (A^1/2 B A^1/2)^1/2, whose roots are real whatever the rank."""
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


@pytest.mark.parametrize(("rows", "columns", "other"), [(200, 12, 200), (90, 12, 400), (300, 64, 70)])
def test_frechet_distance_is_that_of_other_programs(rows: int, columns: int, other: int) -> None:
    mixing = drawn(2, columns, columns)
    a, b = drawn(3, rows, columns), drawn(4, other, columns) @ mixing / columns**0.5 + 0.2
    found = distributions.frechet_distance(a, b)
    assert found == pytest.approx(by_matrix_root(a, b), rel=1e-7)
    assert found == pytest.approx(by_symmetric_root(a, b), rel=1e-9)
    assert found == pytest.approx(float(_compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())), rel=1e-9)
    assert found == pytest.approx(distributions.frechet_distance(b, a), rel=1e-12)


def test_figures_are_those_of_torch_fidelity() -> None:
    real, generated = two_sets()
    assert distributions.frechet_distance(real, generated) == pytest.approx(2.4484588396728952, rel=1e-12)
    assert distributions.kernel_distance(real, generated)[0] == pytest.approx(0.5044869669504228, rel=1e-12)
    assert distributions.inception_score(real.softmax(1), 1) == pytest.approx((1.499309808282907, 0.0), rel=1e-12)
    assert distributions.precision_recall(real, generated) == pytest.approx((0.51, 0.9), abs=1e-6)


def with_deviations(deviations: Tensor, mean: float, rows: int, width: int, first: int = 0) -> Tensor:
    """[rows, width] whose covariance is diag(deviations^2) exactly, from column `first` on, and 0 elsewhere."""
    draws = drawn(5, rows, len(deviations))
    orthogonal = torch.linalg.qr(draws - draws.mean(0)).Q * (rows - 1) ** 0.5
    features = torch.zeros(rows, width, dtype=torch.float64)
    features[:, first : first + len(deviations)] = orthogonal * deviations
    return features + mean


def test_frechet_distance_of_commuting_covariances_has_a_closed_form() -> None:
    one, other = torch.linspace(0.1, 3, 10).double(), torch.linspace(2, 0, 10).double()
    a, b = with_deviations(one, 0.0, 50, 10), with_deviations(other, 0.5, 80, 10)
    expected = float((one - other).square().sum() + 10 * 0.5**2)
    assert distributions.frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_with_fewer_images_than_features() -> None:
    few, others = drawn(6, 20, 40), drawn(7, 30, 40)
    assert distributions.frechet_distance(few, others) == pytest.approx(by_symmetric_root(few, others), rel=1e-6)
    assert distributions.frechet_distance(few, few) == pytest.approx(0, abs=1e-10)
    assert distributions.frechet_distance(few, few.flip(0) + 1) == pytest.approx(40, rel=1e-12)
    deviations = torch.linspace(1, 2, 10).double()
    apart = [with_deviations(deviations, 0.0, 20, 40, first) for first in (0, 20)]
    assert distributions.frechet_distance(*apart) == pytest.approx(2 * float(deviations.square().sum()), rel=1e-12)


def test_frechet_distance_of_one_distribution_to_itself_is_as_documented() -> None:
    rows, width = 1000, 16
    found = [distributions.frechet_distance(drawn(10 + i, rows, width), drawn(40 + i, rows, width)) for i in range(20)]
    assert np.mean(found) == pytest.approx(width * (width + 5) / (2 * rows), rel=0.1)


def blurred(images: Tensor, sigma: float) -> Tensor:
    window = torch.exp(-torch.arange(-4.0, 5).square() / (2 * sigma**2))
    window = window / window.sum()
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4), mode="replicate")
    rows = torch.nn.functional.conv2d(padded, window[None, None, None])
    return torch.nn.functional.conv2d(rows, window[None, None, :, None])


def test_on_digits_both_distances_grow_with_blur_noise_and_missing_classes(
    digits: ImageSet, digits_classifier: Classifier
) -> None:
    real = digits_classifier.features(digits.pixels(digits.rows("train")))
    held_out = digits.pixels(digits.rows("held_out"))
    noise = torch.randn(held_out.shape, generator=torch.Generator().manual_seed(0))
    few_classes = held_out[digits.labels(digits.rows("held_out")) < 5]
    for worse in (
        [held_out, *(blurred(held_out, sigma) for sigma in (0.8, 1.2, 2.0))],
        [held_out, *((held_out + deviation * noise).clamp(-1, 1) for deviation in (0.15, 0.3, 0.6))],
        [held_out, few_classes],
    ):
        features = [digits_classifier.features(images) for images in worse]
        frechet = [distributions.frechet_distance(real, x) for x in features]
        assert all(later > 1.3 * before for before, later in pairwise(frechet))
        kernel = [distributions.kernel_distance(real, x) for x in features]
        assert kernel[0][0] < 0  # the classes were dealt evenly to both sets
        assert kernel[-1][0] > 3 * kernel[-1][1]


# -- kernel distance -----------------------------------------------------------------------------


def by_double_loop(a: Tensor, b: Tensor) -> float:
    def kernel(x: Tensor, y: Tensor) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    n, m = len(a), len(b)
    within_a = sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b = sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_a + within_b - 2 * sum(kernel(x, y) for x in a for y in b) / (n * m)


def test_kernel_distance_is_that_of_a_double_loop_and_of_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = drawn(0, 23, 5), drawn(1, 17, 5) + 0.4
    assert distributions.kernel_distance(a, b)[0] == pytest.approx(by_double_loop(a, b), rel=1e-10)
    assert distributions.kernel_distance(a[:17], b)[0] == pytest.approx(float(poly_mmd(a[:17], b)), rel=1e-10)
    whole = distributions.kernel_distance(a, b)
    monkeypatch.setattr(distributions, "BLOCK", 6)
    assert distributions.kernel_distance(a, b) == pytest.approx(whole, rel=1e-10)
    assert distributions.kernel_distance(a, b, seed=1)[0] == pytest.approx(whole[0], rel=1e-12)


def test_the_error_of_the_kernel_distance_is_the_deviation_over_halves() -> None:
    a, b = drawn(0, 15, 3), drawn(1, 10, 3) + 0.5
    generator = torch.Generator().manual_seed(3)
    in_a, in_b = (distributions.halves(len(x), 6, generator) for x in (a, b))
    assert in_a.sum(0).tolist() == [15] + [7] * 6
    assert in_b.sum(0).tolist() == [10] + [5] * 6
    assert len(in_a.T.unique(dim=0)) == 7
    of_halves = [by_double_loop(a[in_a[:, i] > 0], b[in_b[:, i] > 0]) for i in range(1, 7)]
    found = distributions.kernel_distance(a, b, subsets=6, seed=3)
    assert found == pytest.approx((by_double_loop(a, b), np.std(of_halves, ddof=1)), rel=1e-9)


@pytest.mark.parametrize(("shift", "ratio"), [(0.0, (1, 2)), (0.3, (0.9, 1.7)), (1.0, (0.8, 1.25))])
def test_kernel_distance_is_unbiased_and_its_error_is_what_repetition_shows(
    shift: float, ratio: tuple[float, float]
) -> None:
    found = [distributions.kernel_distance(drawn(i, 60, 8), drawn(500 + i, 90, 8) + shift) for i in range(100)]
    values, errors = (torch.tensor(part) for part in zip(*found, strict=True))
    expected = poly_mmd(drawn(2000, 3000, 8), drawn(2001, 3000, 8) + shift)
    assert abs(float(values.mean() - expected)) < 4 * float(values.std()) / 10
    assert ratio[0] < float(errors.mean() / values.std()) < ratio[1]
    assert float(((values - expected).abs() > 2 * errors).double().mean()) < 0.1


def test_kernel_distance_of_a_random_split_of_digits_is_within_its_error_of_0(
    digits: ImageSet, digits_classifier: Classifier
) -> None:
    order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(0))
    features = digits_classifier.features(digits.pixels(order.numpy()))
    distance, error = distributions.kernel_distance(features[:900], features[900:])
    assert abs(distance) < 2 * error


# -- Inception score -----------------------------------------------------------------------------


def test_inception_score_of_known_distributions() -> None:
    certain = torch.eye(10).repeat_interleave(20, 0)  # in the order of the classes
    assert distributions.inception_score(certain, 1) == pytest.approx((10, 0))
    mean, deviation = distributions.inception_score(certain, 4)
    assert 9 < mean < 10
    assert deviation < 0.5
    assert distributions.inception_score(torch.full((40, 10), 0.1)) == pytest.approx((1, 0))
    assert distributions.inception_score(certain[:20]) == pytest.approx((1, 0))  # one class only
    half = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]).repeat(10, 1)
    kl = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.5)
    assert distributions.inception_score(half, 1)[0] == pytest.approx(np.exp(kl))


# -- precision and recall, density and coverage --------------------------------------------------


def by_loops(real: Tensor, generated: Tensor, neighbours: int) -> dict[str, float]:
    def radius(x: Tensor, own: Tensor) -> float:
        return sorted(float((x - y).norm()) for y in own)[neighbours]

    def inside(x: Tensor, own: Tensor) -> list[bool]:
        return [float((x - y).norm()) <= radius(y, own) for y in own]

    in_real = np.array([inside(x, real) for x in generated])
    in_generated = np.array([inside(x, generated) for x in real])
    return {
        "precision": in_real.any(1).mean(),
        "recall": in_generated.any(1).mean(),
        "density": in_real.sum() / (neighbours * len(generated)),
        "coverage": in_real.any(0).mean(),
    }


def test_precision_and_recall_are_those_of_their_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = drawn(0, 40, 3), 0.7 * drawn(1, 30, 3) + 0.6
    expected = by_loops(real, generated, 3)
    assert 0 < expected["recall"] < expected["precision"] < 1
    for block in (512, 7):
        monkeypatch.setattr(distributions, "BLOCK", block)
        found = distributions.precision_recall(real, generated)
        assert found == pytest.approx((expected["precision"], expected["recall"]))
        found = distributions.density_coverage(real, generated, 3)
        assert found == pytest.approx((expected["density"], expected["coverage"]))


def test_precision_and_recall_of_known_cases() -> None:
    real = drawn(0, 100, 4)
    assert distributions.precision_recall(real, real) == (1, 1)
    assert distributions.precision_recall(real, real + 100) == (0, 0)
    assert distributions.density_coverage(real, real)[1] == 1
    assert distributions.density_coverage(real, real + 100) == (0, 0)
    two_modes = torch.cat([real, real + 100])
    assert distributions.precision_recall(two_modes, real) == (1, 0.5)  # half of the real ones are not made
    assert distributions.precision_recall(real, two_modes) == (0.5, 1)
    collapsed = real[:1].expand(100, -1)
    assert distributions.precision_recall(real, collapsed) == (1, 0.01)
    assert distributions.density_coverage(real, drawn(1, 100, 4), 5)[0] == pytest.approx(1, abs=0.15)


# -- nearest neighbours --------------------------------------------------------------------------


def test_a_planted_copy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "BLOCK", 16)
    training, generated = drawn(0, 300, 8), drawn(1, 50, 8)
    generated[33] = training[271]
    rows, found = distributions.nearest(generated, training)
    apart = (generated[:, None] - training[None]).norm(dim=2)
    assert rows.tolist() == apart.argmin(1).tolist()
    torch.testing.assert_close(found, apart.amin(1))
    assert (int(rows[33]), float(found[33])) == (271, 0.0)
    assert (found == 0).sum() == 1


def test_a_copied_digit_is_nearer_than_any_held_out_one(digits: ImageSet, digits_classifier: Classifier) -> None:
    training = digits_classifier.features(digits.pixels(digits.rows("train")))
    held_out = digits.pixels(digits.rows("held_out"))
    copy = (digits.pixels([17]) + 0.02 * torch.randn(1, 1, 32, 32)).clamp(-1, 1)  # as a model would copy, not exactly
    rows, apart = distributions.nearest(digits_classifier.features(torch.cat([held_out, copy])), training)
    assert int(rows[-1]) == 17
    assert float(apart[-1]) < float(apart[:-1].quantile(0.05))


# -- mistakes ------------------------------------------------------------------------------------


def test_too_few_images_and_other_mistakes_are_named() -> None:
    a, b = drawn(0, 5, 3), drawn(1, 5, 3)
    with pytest.raises(ValueError, match="images: 5 and 1; at least 2 of each are needed"):
        distributions.frechet_distance(a, b[:1])
    with pytest.raises(ValueError, match="at least 4 of each"):
        distributions.kernel_distance(a[:3], b)
    with pytest.raises(ValueError, match="at least 6 of each"):
        distributions.precision_recall(a, b, 5)
    with pytest.raises(ValueError, match="at least 6 of each"):
        distributions.density_coverage(a, b)
    with pytest.raises(ValueError, match="images: 5; the Inception score over 10 splits needs 10"):
        distributions.inception_score(a.softmax(1))
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(5, 2\); two matrices of as many columns"):
        distributions.frechet_distance(a, b[:, :2])
    with pytest.raises(ValueError, match="some are not finite"):
        distributions.frechet_distance(a, b / 0)
