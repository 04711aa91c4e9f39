from itertools import pairwise

import pytest
import torch

from training.losses import diffusion_loss
from training.model.diffusion import Diffusion, DiffusionConfig, Parameterisation

PARAMETERISATIONS: list[Parameterisation] = ["eps", "x0", "v"]


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z0, eps = (torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return z0, eps, torch.tensor([0, 10, 500, 999])


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_a_perfect_answer_gives_the_image_back(parameterisation: Parameterisation) -> None:
    diffusion = Diffusion(DiffusionConfig(parameterisation=parameterisation))
    z0, eps, t = drawn()
    found = diffusion.denoised(diffusion.diffuse(z0, eps, t), diffusion.target(z0, eps, t), t)
    torch.testing.assert_close(found, z0, rtol=0, atol=1e-12)


def test_targets_differ_between_parameterisations() -> None:
    z0, eps, t = drawn()
    targets = [Diffusion(DiffusionConfig(parameterisation=p)).target(z0, eps, t) for p in PARAMETERISATIONS]
    assert not any(torch.equal(a, b) for a, b in pairwise(targets))


def test_the_schedule_is_the_released_one() -> None:
    diffusion = Diffusion(DiffusionConfig(beta_start=0.00085, beta_end=0.012))
    # sqrt(alphas_cumprod) of the published text-to-image model, first and last
    assert float(diffusion.alpha[0]) == pytest.approx((1 - 0.00085) ** 0.5, abs=1e-12)
    assert float(diffusion.alpha[-1]) == pytest.approx(0.0682655, abs=1e-6)
    assert torch.allclose(diffusion.alpha**2 + diffusion.sigma**2, torch.ones(1000, dtype=torch.float64))


def test_min_snr_caps_the_weight_on_the_image_alike_in_every_parameterisation() -> None:
    z0, eps, t = drawn()
    wrong = z0 + 0.1  # the same mistake about z_0, told in each parameterisation
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
