"""The solver's share of a sampling step: `python -m tests.benchmarks.solver_step`.

Times one evaluation of the 25.4M-parameter U-Net for 8 rows of 4x32x32 latents, and the work between two evaluations:
the product and sum of `solver_step.advance`, and with it the algebra from the network's output to the estimate of z_0.
"""

import torch
from rich.console import Console

from tests.benchmarks.unet import batch, pair, time_interleaved
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.guidance import guide
from training.model.solver_step import advance

ROWS = 8


def main() -> None:
    """Measure and print the times."""
    device = torch.device("cpu")
    unet, _ = pair(device, torch.float32)
    x, t, context = batch(ROWS, device, torch.float32)
    diffusion, keys_values = Diffusion(DiffusionConfig()), unet.keys_values(context)
    state, noise, A = torch.randn(ROWS, 5, 4, 32, 32), torch.randn(ROWS, 4, 32, 32), torch.randn(ROWS, 5, 7)
    scale, none = torch.full((ROWS,), 2.0), torch.zeros(ROWS)

    def between() -> torch.Tensor:
        answer = guide(x, noise, scale, none)
        return advance(state, diffusion.denoise(state[:, 0], answer, t), noise, A)

    with torch.inference_mode():
        times = time_interleaved(
            {
                "network": lambda: unet(x, t, keys_values=keys_values),
                "step": lambda: advance(state, x, noise, A),
                "between": between,
            },
            15,
            device,
        )
    for name, told in (("step", "solver step"), ("between", "guidance, estimate of z_0 and solver step")):
        share = times[name] / (times["network"] + times[name])
        Console().print(f"{told}: {times[name] * 1e3:.2f} ms, {share:.2%} of a step of {times['network']:.3f} s")


if __name__ == "__main__":
    main()
