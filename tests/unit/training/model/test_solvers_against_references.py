"""Solvers that look up levels, or for distilled models, against the formulas of their sources, in float64.

The formulas of k-diffusion (github.com/crowsonkb/k-diffusion, sampling.py) are written here as there: in x / alpha,
with sigma / alpha for sigma.
"""

import importlib
import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.training.model.test_solvers_against_diffusers import Doubled, denoiser, drawn, largest
from training.model import spacing
from training.model.diffusion import Diffusion, DiffusionConfig, betas
from training.model.solver_step import advance
from training.model.solver_table import Level
from training.model.solvers import build

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # in diffusers, of its numpy

CONFIG = DiffusionConfig()
Model = Callable[[Tensor, float], Tensor]  # x / alpha and sigma / alpha -> the estimate of z_0


class Recorded(Diffusion):
    """A process that remembers the levels that were looked up, by timestep."""

    def __init__(self, config: DiffusionConfig = CONFIG) -> None:
        self.found: dict[float, Level] = {}
        super().__init__(config)

    def level_at_ratio(self, ratio: float) -> Level:
        level = super().level_at_ratio(ratio)
        self.found[level.t] = level
        return level


def ours(name: str, levels: list[Level], process: Recorded, x: Tensor, noises: list[Tensor]) -> Tensor:
    trajectory = build(name, levels, process)
    known = process.found | {level.t: level for level in reversed(levels)}
    state = x.new_zeros(len(x), 5, *x.shape[1:])
    state[:, 0] = x
    feed = iter(noises)
    for i, t in enumerate(trajectory.t):
        noise = next(feed) if trajectory.noisy[i] else torch.zeros_like(x)
        A = torch.from_numpy(trajectory.A[i]).expand(len(x), 5, 7)
        state = advance(state, denoiser(state[:, 0], known[t]), noise, A)
    return state[:, 0]


def at_ratio(y: Tensor, sigma: float) -> Tensor:
    alpha = 1 / math.hypot(1, sigma)
    return denoiser(alpha * y, Level(0.0, alpha, alpha * sigma))


def ancestral_step(start: float, end: float) -> tuple[float, float]:
    up = min(end, (end**2 * (start**2 - end**2) / start**2) ** 0.5)
    return (end**2 - up**2) ** 0.5, up


def dpm_2(model: Model, y: Tensor, sigmas: list[float], noises: list[Tensor]) -> Tensor:
    for a, b in pairwise(sigmas):
        d = (y - model(y, a)) / a
        if b == 0:
            y = y + d * (b - a)
            continue
        m = math.exp((math.log(a) + math.log(b)) / 2)
        middle = y + d * (m - a)
        y = y + (middle - model(middle, m)) / m * (b - a)
    return y


def dpm_2_ancestral(model: Model, y: Tensor, sigmas: list[float], noises: list[Tensor]) -> Tensor:
    feed = iter(noises)
    for a, b in pairwise(sigmas):
        down, up = ancestral_step(a, b)
        d = (y - model(y, a)) / a
        if down == 0:
            y = y + d * (down - a)
            continue
        m = math.exp((math.log(a) + math.log(down)) / 2)
        middle = y + d * (m - a)
        y = y + (middle - model(middle, m)) / m * (down - a) + next(feed) * up
    return y


def dpmpp_sde(model: Model, y: Tensor, sigmas: list[float], noises: list[Tensor]) -> Tensor:
    """With r = 1/2 and eta = 1, and two increments of a Brownian path for each step."""
    feed = iter(noises)
    for a, b in pairwise(sigmas):
        D = model(y, a)
        if b == 0:
            y = y + (y - D) / a * (b - a)
            continue
        t, following = -math.log(a), -math.log(b)
        m = math.exp(-(t + (following - t) / 2))
        first, second = math.sqrt(a - m) * next(feed), math.sqrt(m - b) * next(feed)
        down, up = ancestral_step(a, m)
        s = -math.log(down)
        middle = down / a * y - math.expm1(t - s) * D + first / math.sqrt(a - m) * up
        down, up = ancestral_step(a, b)
        s = -math.log(down)
        y = down / a * y - math.expm1(t - s) * model(middle, m) + (first + second) / math.sqrt(a - b) * up
    return y


def dpmpp_3m_sde(model: Model, y: Tensor, sigmas: list[float], noises: list[Tensor]) -> Tensor:
    feed, D1, D2, h1, h2 = iter(noises), None, None, 0.0, 0.0
    for a, b in pairwise(sigmas):
        D = model(y, a)
        if b == 0:
            return D
        h = math.log(a) - math.log(b)
        h_eta = 2 * h
        y = math.exp(-h_eta) * y - math.expm1(-h_eta) * D
        phi2 = math.expm1(-h_eta) / h_eta + 1
        phi3 = phi2 / h_eta - 0.5
        if D1 is not None and D2 is not None:
            r0, r1 = h1 / h, h2 / h
            d10, d11 = (D - D1) / r0, (D1 - D2) / r1
            y = y + phi2 * (d10 + (d10 - d11) * r0 / (r0 + r1)) - phi3 * (d10 - d11) / (r0 + r1)
        elif D1 is not None:
            y = y + phi2 * (D - D1) / (h1 / h)
        y = y + next(feed) * b * math.sqrt(-math.expm1(-2 * h))
        D1, D2, h1, h2 = D, D1, h, h1
    return y


@pytest.mark.parametrize(
    ("name", "reference"),
    [("dpm2", dpm_2), ("dpm2_ancestral", dpm_2_ancestral), ("dpm_solver_sde", dpmpp_sde),
     ("dpm_solver_3m_sde", dpmpp_3m_sde)],
)  # fmt: skip
@pytest.mark.parametrize(
    ("steps", "at"), [(1, "trailing"), (2, "karras"), (9, "karras"), (20, "trailing"), (20, "leading")]
)
def test_equals_k_diffusion(name: str, reference: Callable[..., Tensor], steps: int, at: str) -> None:
    process = Recorded()
    levels = spacing.levels(process, steps, at)
    x, *noises = drawn(2 * steps + 1, torch.float64)
    sigmas = [level.sigma / level.alpha for level in levels]
    expected = reference(at_ratio, x / levels[0].alpha, sigmas, noises) * levels[-1].alpha
    assert largest(ours(name, levels, process, x, noises) - expected) < 1e-9


def karras(count: int, low: float, high: float) -> list[float]:
    ramp = np.linspace(0, 1, count)
    return [float(s) for s in (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7]


def heun_with_restarts(model: Model, y: Tensor, sigmas: list[float], noises: list[Tensor], steps: int) -> Tensor:
    """As in AUTOMATIC1111's stable-diffusion-webui (modules/sd_samplers_extra.py), which follows the paper's code."""
    length, times = (9, 1) if steps < 36 else (steps // 4, 2)
    noisy = len(sigmas) - 1  # there restarts use Karras levels, of which one is near 0.1; the data are never nearest
    bottom = min(range(1, noisy), key=lambda i: abs(sigmas[i] - 0.1))
    top = min(range(noisy), key=lambda i: abs(sigmas[i] - 2.0))
    pairs = []
    for i, pair in enumerate(pairwise(sigmas)):
        pairs.append(pair)
        if i + 1 == bottom:
            pairs.extend([*pairwise(karras(length + 1, sigmas[bottom], sigmas[top]))] * times)
    feed, last = iter(noises), None
    for a, b in pairs:
        if last is not None and last < a:
            y = y + next(feed) * (a**2 - last**2) ** 0.5
        d = (y - model(y, a)) / a
        ahead = y + d * (b - a)
        y = ahead if b == 0 else y + (d + (ahead - model(ahead, b)) / b) / 2 * (b - a)
        last = b
    return y


@pytest.mark.parametrize(("steps", "at"), [(20, "karras"), (35, "trailing"), (36, "karras"), (60, "exponential")])
def test_restarts_equal_those_of_stable_diffusion(steps: int, at: str) -> None:
    """The main run takes the levels that the solver chose, which the other computes anew for its smaller count."""
    process = Recorded()
    levels = spacing.levels(process, steps, at)
    trajectory = build("restart", levels, process)
    assert len(trajectory) == 2 * steps - 1
    assert sum(trajectory.noisy) == (1 if steps < 36 else 2)
    given = {level.t for level in levels}
    main = sorted({t for t in trajectory.t if t in given}, reverse=True)
    assert len(main) == steps - (9 if steps < 36 else steps // 4 * 2)
    by_time = {level.t: level for level in levels[:-1]}
    sigmas = [by_time[t].sigma / by_time[t].alpha for t in main] + [0.0]
    x, *noises = drawn(3, torch.float64)
    expected = heun_with_restarts(at_ratio, x / levels[0].alpha, sigmas, noises, steps)
    assert largest(ours("restart", levels, process, x, noises) - expected) < 1e-9


def test_short_runs_have_no_restart() -> None:
    process = Recorded()
    levels = spacing.levels(process, 19, "trailing")
    assert np.array_equal(build("restart", levels, process).A, build("heun", levels, process).A)


@pytest.fixture
def doubles() -> Iterator[None]:
    """Whatever is not given a dtype is float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(("name", "scheduler"), [("lcm", "LCMScheduler"), ("tcd", "TCDScheduler")])
@pytest.mark.parametrize("timesteps", [[999, 759, 499, 259], [999], [500, 100]])
def test_distilled_models_are_sampled_as_by_diffusers(
    name: str, scheduler: str, timesteps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
    monkeypatch.setattr(module, "torch", Doubled(torch))
    x, *noises = drawn(len(timesteps) + 1, torch.float64)
    feed = iter(noises)
    monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: next(feed))
    theirs = getattr(module, scheduler)(trained_betas=betas(CONFIG).numpy(), clip_sample=False)
    theirs.set_timesteps(timesteps=timesteps, original_inference_steps=1000)
    process = Recorded()
    levels = [*map(process.level, timesteps), process.level(0)]
    expected = x
    for t, level in zip(theirs.timesteps, levels, strict=False):
        eps = (expected - level.alpha * denoiser(expected, level)) / level.sigma
        expected = theirs.step(eps, t, expected).prev_sample
    assert largest(ours(name, levels, process, x, noises) - expected) < 1e-9


# -- spacings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "option"), [("exponential", "use_exponential_sigmas"), ("beta", "use_beta_sigmas")])
@pytest.mark.parametrize("steps", [2, 7, 40])
def test_levels_are_those_of_diffusers(name: str, option: str, steps: int) -> None:
    from diffusers import EulerDiscreteScheduler

    theirs = EulerDiscreteScheduler(trained_betas=betas(CONFIG).numpy(), **{option: True})
    theirs.set_timesteps(steps)
    high, low = theirs.sigmas[0].item(), theirs.sigmas[-2].item()
    found = [level.sigma / level.alpha for level in spacing.levels(Diffusion(CONFIG), steps, name)]
    assert (found[0], found[-2]) == pytest.approx((high, low), rel=1e-5)
    assert found == pytest.approx(theirs.sigmas.tolist(), rel=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 49, 50])
def test_the_timesteps_of_latent_consistency_models_are_those_of_diffusers(steps: int) -> None:
    from diffusers import LCMScheduler

    theirs = LCMScheduler(trained_betas=betas(CONFIG).numpy())
    theirs.set_timesteps(steps)
    found = [level.t for level in spacing.levels(Diffusion(CONFIG), steps, "lcm")[:-1]]
    assert found == theirs.timesteps.tolist()


def test_beta_quantiles() -> None:
    from scipy.stats import beta

    shares = np.linspace(0, 1, 1001)
    assert np.abs(spacing.beta_quantiles(shares) - beta.ppf(shares, 0.6, 0.6)).max() < 1e-7


def test_the_shift_is_that_of_flow_matching() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(sigmas=[1 - i / 12 for i in range(12)])
    flow = Diffusion(DiffusionConfig("flow", parameterisation="flow"))
    found = [level.sigma for level in spacing.levels(flow, 12, "shifted")]
    assert found == pytest.approx(theirs.sigmas.tolist(), abs=1e-6)


def test_even_in_sigma() -> None:
    ratios = [level.sigma / level.alpha for level in spacing.levels(Diffusion(CONFIG), 9, "sigma_uniform")[:-1]]
    assert np.diff(ratios) == pytest.approx([(ratios[-1] - ratios[0]) / 8] * 8)
