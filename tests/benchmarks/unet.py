"""Darkroom's U-Net compared with diffusers': `python -m tests.benchmarks.unet [--device cuda] [--repeats 7]`.

The 25.4M-parameter cross-attention U-Net on 4x32x32 latents with 77 tokens: same weights, same inputs, same threads,
interleaved runs, medians. The outputs are compared first. A ratio above 1 means that Darkroom's is faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from training.model.interop.huggingface.unet import unet_component as exported
from training.model.unet import UNet, UNetConfig

CONFIG = UNetConfig(
    in_channels=4, out_channels=4, channels=64, multipliers=(1, 2, 4), res_blocks=2, attention_factors=(4, 2, 1),
    heads=8, head_width=None, context_width=256,
)  # fmt: skip
TOKENS = 77


def time_interleaved(runs: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each run. The runs alternate, after two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(repeats + 2):
        for name, run in runs.items():
            synchronise(device)
            start = time.perf_counter()
            run()
            synchronise(device)
            if round_ >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronise(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def pair(device: torch.device, dtype: torch.dtype) -> tuple[UNet, nn.Module]:
    """Return Darkroom's and diffusers' network with the same weights, none of them zero."""
    torch.manual_seed(0)
    ours = UNet(CONFIG)
    for parameter in ours.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    component = exported(ours, latent_size=32)
    theirs = UNet2DConditionModel.from_config(component.config)
    theirs.load_state_dict(component.tensors)
    return ours.to(device, dtype).eval(), theirs.to(device, dtype).eval()


def batch(rows: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, t and context."""
    x, context = torch.randn(rows, 4, 32, 32), torch.randn(rows, TOKENS, 256)
    return x.to(device, dtype), torch.randint(1000, (rows,), device=device), context.to(device, dtype)


def train_step(model: nn.Module, optimiser: torch.optim.Optimizer, answer: Callable[[], Tensor]) -> None:
    """Take one step of the plain diffusion loss."""
    optimiser.zero_grad()
    answer().square().mean().backward()
    optimiser.step()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--train-batch", type=int, default=8)
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    ours, theirs = pair(device, dtype)
    if device.type == "cuda":
        theirs = theirs.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub leaves it out
    first, second = (torch.compile(model) if options.compile else model for model in (ours, theirs))
    size = sum(parameter.numel() for parameter in ours.parameters()) / 1e6
    where = f"{options.device}, {options.dtype}, {'compiled' if options.compile else 'eager'}"
    table = Table(
        title=f"{size:.1f}M parameters, {where}, {torch.get_num_threads()} threads, median of {options.repeats}"
    )
    for column in ("", "Darkroom", "diffusers", "ratio", "largest difference"):
        table.add_column(column)

    def add(name: str, times: dict[str, float], difference: float | None = None) -> None:
        ratio = times["diffusers"] / times["Darkroom"]
        told = "" if difference is None else f"{difference:.1e}"
        table.add_row(name, f"{times['Darkroom']:.4f} s", f"{times['diffusers']:.4f} s", f"{ratio:.2f}", told)

    for rows in options.batches:
        x, t, context = batch(rows, device, dtype)
        with torch.inference_mode():
            once = ours.keys_values(context)
            expected, found = second(x, t, context).sample, first(x, t, context)
            difference = float((found - expected).abs().max())
            if dtype == torch.float32:
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
            theirs_run = lambda: second(x, t, context).sample  # noqa: E731, B023
            times = time_interleaved(
                {"Darkroom": lambda: first(x, t, context), "diffusers": theirs_run},  # noqa: B023
                options.repeats, device,
            )  # fmt: skip
            add(f"forward, batch {rows}", times, difference)
            times = time_interleaved(
                {"Darkroom": lambda: first(x, t, keys_values=once), "diffusers": theirs_run},  # noqa: B023
                options.repeats, device,
            )  # fmt: skip
            add(f"sampling step, batch {rows} (keys and values kept)", times)

    x, t, context = batch(options.train_batch, device, dtype)
    ours.train(), theirs.train()
    optimisers = [torch.optim.AdamW(model.parameters(), fused=True) for model in (ours, theirs)]
    times = time_interleaved(
        {
            "Darkroom": lambda: train_step(ours, optimisers[0], lambda: first(x, t, context)),
            "diffusers": lambda: train_step(theirs, optimisers[1], lambda: second(x, t, context).sample),
        },
        max(3, options.repeats // 2), device,
    )  # fmt: skip
    add(f"train step, batch {options.train_batch}", times)
    Console().print(table)


if __name__ == "__main__":
    main()
