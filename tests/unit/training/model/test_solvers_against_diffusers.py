"""Every solver against diffusers' schedulers, run by their own `step`, on the same denoiser, levels and noise.

Once in float64: inside a scheduler's module the names `torch` and `numpy` are then replaced by ones whose float32 is
float64, so that all of its arithmetic is its own, and exact. Once as it is, in float32.
"""

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from training.model import spacing
from training.model.diffusion import Diffusion, DiffusionConfig, betas
from training.model.solver_step import advance
from training.model.solver_table import DATA, Level
from training.model.solvers import build

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # in diffusers, of its numpy

MU, SPREAD = 0.7, 0.4  # the data: N(MU, SPREAD^2)
CONFIG = DiffusionConfig()
SHAPE = (2, 3, 4)


class Doubled:
    """A library whose float32 is float64."""

    def __init__(self, library: ModuleType) -> None:
        self._library = library
        self.float32 = library.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


def denoiser(x: Tensor, level: Level) -> Tensor:
    """E[z_0 | z_t = x] for Gaussian data."""
    gain = level.alpha * SPREAD**2 / (level.alpha**2 * SPREAD**2 + level.sigma**2)
    return MU + gain * (x - level.alpha * MU)


def answer(x: Tensor, level: Level, kind: str) -> Tensor:
    """What a network of this parameterisation would say."""
    denoised = denoiser(x, level)
    eps = (x - level.alpha * denoised) / level.sigma
    v = level.alpha * eps - level.sigma * denoised
    return {"epsilon": eps, "v_prediction": v, "flow_prediction": eps - denoised}[kind]


def drawn(count: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def ours(name: str, levels: list[Level], x: Tensor, noises: list[Tensor], **options: float) -> Tensor:
    trajectory = build(name, levels, Diffusion(CONFIG), **options)
    by_time = {level.t: level for level in levels}
    state = x.new_zeros(len(x), 5, *x.shape[1:])
    state[:, 0] = x
    for i, t in enumerate(trajectory.t):
        A = torch.from_numpy(trajectory.A[i]).expand(len(x), 5, 7)
        state = advance(state, denoiser(state[:, 0], by_time[t]), noises[i], A)
    return state[:, 0]


# name of ours: (module, class, options, whether it samples x / alpha)
PEERS: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    "ddim": ("ddim", "DDIMScheduler", {"clip_sample": False}, False),
    "ddpm": ("ddpm", "DDPMScheduler", {"clip_sample": False}, False),
    "plms": ("pndm", "PNDMScheduler", {"skip_prk_steps": True}, False),
    "euler": ("euler_discrete", "EulerDiscreteScheduler", {}, True),
    "euler_ancestral": ("euler_ancestral_discrete", "EulerAncestralDiscreteScheduler", {}, True),
    "heun": ("heun_discrete", "HeunDiscreteScheduler", {}, True),
    "dpm_solver_2m": ("dpmsolver_multistep", "DPMSolverMultistepScheduler", {}, False),
    "dpm_solver_3m": ("dpmsolver_multistep", "DPMSolverMultistepScheduler", {"solver_order": 3}, False),
    "dpm_solver_2m_sde": (
        "dpmsolver_multistep", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, False
    ),
    "lms": ("lms_discrete", "LMSDiscreteScheduler", {}, True),
    "sa_solver": ("sasolver", "SASolverScheduler", {}, False),
    "deis": ("deis_multistep", "DEISMultistepScheduler", {"solver_order": 3}, False),
    "unipc": ("unipc_multistep", "UniPCMultistepScheduler", {"solver_order": 3}, False),
}  # fmt: skip


class Peer:
    """A scheduler of diffusers, on given noise."""

    def __init__(
        self, name: str, steps: int, spacing: str, *, double: bool, monkeypatch: pytest.MonkeyPatch, **options: Any
    ) -> None:
        module_name, class_name, own, self.scaled = PEERS[name]
        self.module = importlib.import_module(f"diffusers.schedulers.scheduling_{module_name}")
        self.dtype = torch.float64 if double else torch.float32
        if double:
            monkeypatch.setattr(self.module, "torch", Doubled(torch))
            monkeypatch.setattr(self.module, "np", Doubled(np))
        self.kind = options.pop("prediction_type", "epsilon")
        self.scheduler = getattr(self.module, class_name)(
            trained_betas=betas(CONFIG).numpy(), timestep_spacing=spacing, prediction_type=self.kind, **own, **options
        )
        self.scheduler.set_timesteps(steps)
        if hasattr(self.scheduler, "sigmas") and self.scheduler.sigmas[-1] == self.scheduler.sigmas[-2]:
            self.scheduler.sigmas[-1] /= 2  # SA-Solver for flow repeats its last level, a step of no length
        self.double = double

    def levels(self) -> list[Level]:
        """Those of its run, each once, from its own sigmas where it has them."""
        squares = self.scheduler.alphas_cumprod.double()
        if hasattr(self.scheduler, "sigmas"):
            ratios = dict.fromkeys(self.scheduler.sigmas.double().tolist())
            times = list(dict.fromkeys(self.scheduler.timesteps.double().tolist()))
            if self.scheduler.config.get("use_flow_sigmas"):
                found = [Level(0.0, 1 - s, s) for s in ratios]
            else:
                found = [Level(0.0, 1 / np.hypot(1, s), s / np.hypot(1, s)) for s in ratios]
            found = [level._replace(t=t) for level, t in zip(found, [*times, -1.0], strict=False)]
            return [level if level.sigma else DATA._replace(t=-1.0) for level in found]
        times = list(dict.fromkeys(self.scheduler.timesteps.tolist()))
        found = [Level(float(t), float(squares[t].sqrt()), float((1 - squares[t]).sqrt())) for t in times]
        return [*found, DATA._replace(t=-1.0)]

    def run(self, x: Tensor, noises: list[Tensor], monkeypatch: pytest.MonkeyPatch, **step_options: Any) -> Tensor:
        """Its own loop."""
        levels = {level.t: level for level in self.levels()}
        feed: Iterator[Tensor] = iter(noises)
        if hasattr(self.module, "randn_tensor"):
            monkeypatch.setattr(self.module, "randn_tensor", lambda *a, **k: next(feed))
        if self.scaled:
            x = x / self.levels()[0].alpha
        for t in self.scheduler.timesteps:
            level = levels[float(t)]
            seen = self.scheduler.scale_model_input(x, t)
            x = self.scheduler.step(answer(seen, level, self.kind), t, x, **step_options).prev_sample
        return x


def largest(difference: Tensor) -> float:
    return float(difference.double().abs().max())


def compare(
    name: str, steps: int, spacing: str, monkeypatch: pytest.MonkeyPatch, *, double: bool, eta: float | None = None,
    **options: Any,
) -> float:  # fmt: skip
    peer = Peer(name, steps, spacing, double=double, monkeypatch=monkeypatch, **options)
    x, *noises = drawn(2 * steps + 3, peer.dtype)
    own = {} if eta is None else {"eta": eta}
    expected = peer.run(x, noises, monkeypatch, **own)
    return largest(ours(name, peer.levels(), x, noises, **own) - expected)


@pytest.mark.parametrize("name", sorted(PEERS))
@pytest.mark.parametrize(("steps", "spacing"), [(4, "linspace"), (10, "leading"), (20, "trailing"), (50, "linspace")])
def test_equals_diffusers_in_float64(name: str, steps: int, spacing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"set_alpha_to_one": True} if name in ("ddim", "plms") else {}
    if spacing == "linspace" and name in ("ddim", "plms"):
        spacing = "trailing"  # of linspace they step by T // N, not to their own next timestep
    eta = 0.0 if name == "ddim" else None
    assert compare(name, steps, spacing, monkeypatch, double=True, eta=eta, **options) < 1e-9


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_noise_equals_diffusers(eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare("ddim", 20, "trailing", monkeypatch, double=True, eta=eta) < 1e-9


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_solver_2m", "dpm_solver_3m", "unipc", "deis"])
def test_equals_diffusers_on_karras_levels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare(name, 20, "linspace", monkeypatch, double=True, use_karras_sigmas=True) < 1e-9


@pytest.mark.parametrize("name", sorted(set(PEERS) - {"plms"}))
def test_equals_diffusers_for_v_prediction(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for PNDM, which averages answers v of different levels before it turns them into eps."""
    assert compare(name, 20, "trailing", monkeypatch, double=True, prediction_type="v_prediction") < 1e-9


@pytest.mark.parametrize("name", ["dpm_solver_2m", "dpm_solver_3m", "dpm_solver_2m_sde", "deis", "sa_solver", "unipc"])
def test_equals_diffusers_for_flow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where alpha + sigma = 1."""
    flow: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    assert compare(name, 20, "linspace", monkeypatch, double=True, **flow) < 1e-9


@pytest.mark.parametrize("name", sorted(set(PEERS) - {"deis", "lms"}))  # off by 4e-3 at 500 steps, by 1.2e-6
def test_diffusers_in_float32_is_close(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"set_alpha_to_one": True} if name in ("ddim", "plms") else {}
    assert compare(name, 20, "trailing", monkeypatch, double=False, **options) < 1e-6


@pytest.mark.parametrize("steps", [1, 5, 30])
def test_euler_on_flow_levels_is_flow_matching(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From pure noise to the data, also in float64."""
    module = importlib.import_module("diffusers.schedulers.scheduling_flow_match_euler_discrete")
    monkeypatch.setattr(module, "torch", Doubled(torch))
    monkeypatch.setattr(module, "np", Doubled(np))
    at = spacing.levels(Diffusion(DiffusionConfig(schedule="flow", parameterisation="flow")), steps, "trailing")
    scheduler = module.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[level.sigma for level in at[:-1]])
    x, *noises = drawn(steps + 1, torch.float64)
    expected = x
    for t, level in zip(scheduler.timesteps, at[:-1], strict=True):
        expected = scheduler.step(answer(expected, level, "flow_prediction"), t, expected).prev_sample
    assert expected.dtype == torch.float64
    assert largest(ours("euler", at, x, noises) - expected) < 1e-9


@pytest.mark.parametrize("steps", [1, 5, 30])
def test_heun_on_flow_levels_is_flow_matching_with_heun(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is straight in x and sigma, and evaluates twice from pure noise too."""
    module = importlib.import_module("diffusers.schedulers.scheduling_flow_match_heun_discrete")
    monkeypatch.setattr(module, "torch", Doubled(torch))
    monkeypatch.setattr(module, "np", Doubled(np))
    scheduler = module.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    sigmas = list(dict.fromkeys(scheduler.sigmas.tolist()))
    at = [Level(1000 * s - 1, 1 - s, s) for s in sigmas]
    x, *noises = drawn(2 * steps + 1, torch.float64)
    expected, by_sigma = x, {level.sigma: level for level in at}
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
        expected = scheduler.step(answer(expected, by_sigma[sigma], "flow_prediction"), t, expected).prev_sample
    assert largest(ours("heun", at, x, noises) - expected) < 1e-9
