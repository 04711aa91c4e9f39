import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from training.model.diffusion import Diffusion, DiffusionConfig, Parameterisation, Schedule
from training.recipes.losses import TimestepSampling, diffusion_loss, draw_timesteps
from training.recipes.randomness import StepDraws

PARAMETERISATIONS: list[Parameterisation] = ["eps", "x0", "v"]
PURE_NOISE = [
    DiffusionConfig(parameterisation="v", zero_terminal_snr=True),
    DiffusionConfig(schedule="flow", parameterisation="flow"),
]


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z0, eps = (torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return z0, eps, torch.tensor([0, 10, 500, 999])


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_a_perfect_prediction_recovers_the_image(parameterisation: Parameterisation) -> None:
    diffusion = Diffusion(DiffusionConfig(parameterisation=parameterisation))
    z0, eps, t = drawn()
    found = diffusion.denoise(diffusion.diffuse(z0, eps, t), diffusion.target(z0, eps, t), t)
    torch.testing.assert_close(found, z0, rtol=0, atol=1e-12)


def test_targets_differ_between_parameterisations() -> None:
    z0, eps, t = drawn()
    targets = [Diffusion(DiffusionConfig(parameterisation=p)).target(z0, eps, t) for p in PARAMETERISATIONS]
    assert not any(torch.equal(a, b) for a, b in pairwise(targets))


def test_the_default_schedule_is_that_of_the_released_models() -> None:
    diffusion = Diffusion(DiffusionConfig(beta_start=0.00085, beta_end=0.012))
    # sqrt(alphas_cumprod) of the published text-to-image model, first and last
    assert float(diffusion.alpha[0]) == pytest.approx((1 - 0.00085) ** 0.5, abs=1e-12)
    assert float(diffusion.alpha[-1]) == pytest.approx(0.0682655, abs=1e-6)
    assert torch.allclose(diffusion.alpha**2 + diffusion.sigma**2, torch.ones(1000, dtype=torch.float64))


def test_min_snr_caps_the_weight_equally_in_every_parameterisation() -> None:
    z0, eps, t = drawn()
    wrong = z0 + 0.1  # the same mistake about z_0, expressed in each parameterisation
    losses = []
    for parameterisation in PARAMETERISATIONS:
        diffusion = Diffusion(DiffusionConfig(parameterisation=parameterisation))
        z_t = diffusion.diffuse(z0, eps, t)
        alpha, sigma = (table[t].reshape(-1, 1, 1, 1) for table in (diffusion.alpha, diffusion.sigma))
        eps_of_wrong = (z_t - alpha * wrong) / sigma
        output = diffusion.target(wrong, eps_of_wrong, t)
        losses.append(diffusion_loss(diffusion, output, diffusion.target(z0, eps, t), t, min_snr_gamma=5.0))
    snr = (diffusion.alpha[t] / diffusion.sigma[t]) ** 2
    expected = float((snr.clamp(max=5.0) * 0.01).mean())
    assert [float(loss) for loss in losses] == pytest.approx([expected] * 3, rel=1e-5)


def test_the_loss_is_the_mean_square_or_the_mean_absolute_value_of_the_error() -> None:
    wrong, right, t = torch.full((1, 2, 3, 3), 3.0), torch.zeros(1, 2, 3, 3), torch.tensor([5])
    diffusion = Diffusion(DiffusionConfig())
    assert float(diffusion_loss(diffusion, wrong, right, t, min_snr_gamma=None)) == 9
    assert float(diffusion_loss(diffusion, wrong, right, t, min_snr_gamma=None, norm="l1")) == 3


@pytest.mark.parametrize("config", PURE_NOISE)
def test_min_snr_gives_pure_noise_zero_weight(config: DiffusionConfig) -> None:
    """Why experiments refuse it there."""
    wrong, right, t = torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3), torch.tensor([999])
    assert float(diffusion_loss(Diffusion(config), wrong, right, t, min_snr_gamma=5.0)) == 0
    assert float(diffusion_loss(Diffusion(config), wrong, right, t, min_snr_gamma=None)) == 1


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
def test_schedules_equal_those_of_diffusers(schedule: Schedule, zero_terminal_snr: bool) -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    config = DiffusionConfig(schedule=schedule, parameterisation="v", zero_terminal_snr=zero_terminal_snr)
    theirs = DDIMScheduler(
        beta_schedule={"cosine": "squaredcos_cap_v2"}.get(schedule, schedule),
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        rescale_betas_zero_snr=zero_terminal_snr,
    )
    torch.testing.assert_close(Diffusion(config).alpha ** 2, theirs.alphas_cumprod.double(), rtol=0, atol=2e-6)


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_start() -> None:
    plain, zero = (Diffusion(DiffusionConfig(parameterisation="v", zero_terminal_snr=flag)) for flag in (False, True))
    assert float(zero.alpha[-1]) == 0
    assert float(zero.sigma[-1]) == 1
    assert float(zero.alpha[0]) == pytest.approx(float(plain.alpha[0]), rel=1e-12)
    z0, eps, t = drawn()
    found = zero.denoise(zero.diffuse(z0, eps, t), zero.target(z0, eps, t), t)
    torch.testing.assert_close(found, z0, rtol=0, atol=1e-12)


def test_flow_is_a_straight_line_and_predicts_its_direction() -> None:
    flow = Diffusion(DiffusionConfig(schedule="flow", parameterisation="flow"))
    assert torch.equal(flow.alpha + flow.sigma, torch.ones(1000, dtype=torch.float64))
    assert (float(flow.alpha[-1]), float(flow.sigma[-1])) == (0.0, 1.0)
    z0, eps, t = drawn()
    assert torch.equal(flow.target(z0, eps, t), eps - z0)
    found = flow.denoise(flow.diffuse(z0, eps, t), eps - z0, t)
    torch.testing.assert_close(found, z0, rtol=0, atol=1e-12)


def test_the_log_ratio_is_linear_between_two_timesteps() -> None:
    diffusion = Diffusion(DiffusionConfig())
    t = torch.tensor([10.0, 10.25, 11.0], dtype=torch.float64)
    alpha, sigma = diffusion.alpha_sigma(t, torch.zeros(3, dtype=torch.float64))
    ratio = (sigma / alpha).log()
    assert float(ratio[1]) == pytest.approx(0.75 * float(ratio[0]) + 0.25 * float(ratio[2]), rel=1e-12)
    assert float(alpha[1] ** 2 + sigma[1] ** 2) == pytest.approx(1, abs=1e-15)
    assert torch.equal(alpha[::2], diffusion.alpha[10:12])


@pytest.mark.parametrize("config", PURE_NOISE)
def test_timesteps_just_before_pure_noise_are_pure_noise(config: DiffusionConfig) -> None:
    """Between the last two timesteps log(sigma / alpha) is infinite; alpha and sigma are not."""
    t = torch.tensor([998.5, 999.0], dtype=torch.float64)
    alpha, sigma = Diffusion(config).alpha_sigma(t, torch.zeros(2, dtype=torch.float64))
    assert alpha.tolist() == [0, 0]
    assert sigma.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"schedule": "quadratic"},
            "schedule: 'quadratic' is not known; permitted: scaled_linear, linear, cosine",
        ),
        ({"parameterisation": "mu"}, "parameterisation: 'mu' is not known; permitted: eps, x0, v, flow"),
        (
            {"parameterisation": "flow"},
            "'flow' is not allowed with the schedule 'scaled_linear'; permitted: eps",
        ),
        ({"schedule": "flow"}, "parameterisation: 'eps' is not allowed with the schedule 'flow'; permitted: flow"),
        ({"zero_terminal_snr": True}, "'eps' is not allowed with zero_terminal_snr"),
        ({"schedule": "flow", "parameterisation": "flow", "zero_terminal_snr": True}, "zero_terminal_snr: true"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "beta_start, beta_end: 0.5, 0.1 are not allowed"),
        ({"timesteps": 19}, "timesteps: 19 is not allowed; permitted: at least 20"),
        (
            {"beta_start": 0.5, "beta_end": 0.9},
            "beta_start, beta_end: 0.5, 0.9 are not allowed with 1000 timesteps, because nothing of the data is left",
        ),
        (
            {"beta_start": 0.5, "beta_end": 0.9, "parameterisation": "v", "zero_terminal_snr": True},
            "nothing of the data",
        ),
    ],
)
def test_invalid_schedules_are_refused_by_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionConfig(**fields)


def test_logit_normal_timesteps_are_mostly_in_the_middle() -> None:
    """Esser et al. 2024, eq. 19: the median is where the mean says, and both ends are rare."""
    t = draw_timesteps(StepDraws(0, 0, 20_000), 1000, TimestepSampling("logit_normal", mean=1.0, std=0.5))
    assert t.dtype == torch.int64
    assert 0 <= int(t.min()) <= int(t.max()) <= 999
    assert float(t.double().median()) == pytest.approx(1000 / (1 + math.exp(-1.0)), rel=0.02)
    assert float((t > 950).double().mean()) < 0.01
    uniform = draw_timesteps(StepDraws(0, 0, 20_000), 1000, TimestepSampling())
    counts = torch.bincount(uniform // 100, minlength=10)
    assert counts.min() > 1850  # 2000 expected, standard deviation 42
    assert counts.max() < 2150
