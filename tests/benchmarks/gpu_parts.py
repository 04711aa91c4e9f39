"""Parts of `tests.benchmarks.gpu` about steps and bytes. A part raises if a promise does not hold."""

import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from services.job_requests.image_spec import ImageSpec
from services.worker.engine import Engine
from services.worker.images import Developed
from tests.benchmarks.gpu_timing import (
    DEVICE,
    PROFILE,
    Report,
    kernel_seconds,
    kind_of,
    median_seconds,
    prepares,
)
from tests.support.releases import make_digits_release, make_tiny_release
from training.model.attention_layers import join_projections
from training.model.interop.huggingface.unet import unet_component
from training.model.unet import UNet, UNetConfig

LDM4 = UNetConfig(3, 3, 192, (1, 2, 3, 5), 2, (8, 4, 2), heads=1, head_width=None, context_width=512)  # 401M
SMALLEST = UNetConfig(3, 3, 32, (1, 2), 1, (2,), heads=1, head_width=None, context_width=32)

MOST_DIFFERENCE = 0.05  # of a network in bf16 to float32; 0.011 was measured
SLOWEST = 12  # kernels that are named


def limits(smallest: bool, report: Report) -> None:
    """The matrix product of the device, which everything else is compared with."""
    n = 256 if smallest else 8192
    a = torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16)
    report(f"bf16 {n}^3 matrix product, TFLOP/s", 2 * n**3 / median_seconds(lambda: a @ a) / 1e12)


def networks(smallest: bool, report: Report) -> None:
    """One forward pass in bf16, ours and diffusers' in channels_last, both compiled on a GPU."""
    from diffusers import UNet2DConditionModel

    config, rows, side = (SMALLEST, 2, 8) if smallest else (LDM4, 64, 64)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    with torch.device(DEVICE):  # where initialising takes no time
        ours = UNet(config).eval()
        for parameter in ours.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        component = unet_component(ours, latent_size=side)
        theirs = UNet2DConditionModel.from_config(component.config).eval()
        x, t = torch.randn(rows, 3, side, side), torch.full((rows,), 500)
        context = torch.randn(rows, 1, config.context_width or 0)
    theirs.load_state_dict(component.tensors)
    with torch.inference_mode():
        expected = ours(x[:2], t[:2], context[:2])
    operations = rows * operations_a_row(ours, side)
    join_projections(ours)
    ours, theirs = ours.to(torch.bfloat16), theirs.to(torch.bfloat16, memory_format=torch.channels_last)
    x, context = x.bfloat16(), context.bfloat16()
    with torch.inference_mode():
        runs: dict[str, tuple[Any, Callable[[Any], Tensor]]] = {
            "Darkroom": (ours, lambda answer: answer),
            "diffusers": (theirs, lambda answer: answer.sample),
        }
        compiled: dict[str, Any] = {}
        for name, (model, read) in runs.items():
            network = torch.compile(model, dynamic=False) if DEVICE.type == "cuda" else model
            compiled[name] = network
            seconds = median_seconds(lambda: network(x, t, context))  # noqa: B023
            error = (read(network(x, t, context))[:2].float() - expected).norm() / expected.norm()
            report(f"{name}, {rows} rows, ms", seconds * 1e3)
            report(f"{name}, TFLOP/s", operations / seconds / 1e12)
            report(f"{name}, relative difference to float32", float(error))
            assert error < MOST_DIFFERENCE or name != "Darkroom", "the compiled network computes something else"
        if not prepares():
            report_kernels(lambda: compiled["Darkroom"](x, t, context), report)


def operations_a_row(unet: UNet, side: int) -> int:
    """Return the operations of products in a forward pass, for one latent. Training takes three times as many."""
    x, context = (
        torch.zeros(2, 3, side, side, device=DEVICE),
        torch.zeros(2, 1, unet.config.context_width or 0, device=DEVICE),
    )
    with FlopCounterMode(display=False) as counter:  # with gradients, for which no product is left out
        unet(x, torch.zeros(2, device=DEVICE), context)
    return counter.get_total_flops() // 2


def report_kernels(work: Callable[[], object], report: Report) -> None:
    """Report how long each kind of kernel takes, and the slowest ones."""
    seconds, kinds = kernel_seconds(work), Counter[str]()
    for name, taken in seconds.items():
        kinds[kind_of(name)] += taken
    for kind, taken in kinds.most_common():
        report(f"Darkroom, {kind}, ms", taken * 1e3)
    for name, taken in seconds.most_common(SLOWEST):
        report(f"Darkroom, of these {name[:80]}, ms", taken * 1e3)


def engine_of(
    folder: Path, rows: int, profile: str = PROFILE, make: Callable[[Path], Path] = make_tiny_release
) -> Engine[str]:
    """Return an engine of the release that `make` writes into the folder."""
    return Engine[str](make(folder), rows=rows, device=DEVICE.type, profile=profile)


def add(engine: Engine[str], index: int) -> None:
    """Add an image whose solver, steps and guidance follow from its index."""
    draw = random.Random(index)
    solver, scale = draw.choice(["ddim", "ddpm", "unipc", "dpm_solver_2m"]), draw.choice([1.0, 2.0])
    spec = ImageSpec(index, 0, index, draw.randint(2, 6), solver, scale)
    engine.add("owner", engine.request(spec, engine.read_conditions({"class_label": index % 10})))


def develop(engine: Engine[str], indices: list[int]) -> dict[int, bytes]:
    """Return the pixels of images by index."""
    for index in indices:
        add(engine, index)
    made: dict[int, bytes] = {}
    while engine.busy:
        for image in engine.step():
            assert isinstance(image, Developed), image
            made[image.spec.index] = image.pixels.tobytes()
    return made


def same_bytes(smallest: bool, report: Report) -> None:
    """Images have the same bytes at random places, in random company, and in another engine."""
    rows, images, rounds = (8, 12, 2) if smallest else (64, 250, 4)
    with tempfile.TemporaryDirectory() as folder:
        engine, other = engine_of(Path(folder) / "a", rows), engine_of(Path(folder) / "b", rows)
    expected = develop(engine, list(range(images)))
    for seed in range(rounds):
        order = list(range(images))
        random.Random(seed).shuffle(order)
        found = develop(other if seed % 2 else engine, order)
        wrong = [index for index in order if found[index] != expected[index]]
        assert not wrong, f"{len(wrong)} of {images} images have other bytes, such as {wrong[0]}"
        report("placements with equal bytes", images * (seed + 1))
    if DEVICE.type == "cuda":
        report("allocations that were refused", torch.cuda.memory_stats().get("num_ooms", 0))


def engine_step(smallest: bool, report: Report) -> None:
    """A step of the engine with the network of the digits, in milliseconds. Fails if one waits for the device."""
    for rows in (8,) if smallest else (64, 256):
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            engine = engine_of(Path(folder) / "a", rows, make=make_digits_release)
        for index in range(rows):
            spec = ImageSpec(index, 0, index, 1000, "ddim", 1.0)
            engine.add("owner", engine.request(spec, engine.read_conditions({"class_label": 1})))
        many = 5 if smallest or prepares() else 100

        def steps(engine: Engine[str] = engine, many: int = many) -> None:
            for _ in range(many):
                engine.step()

        report(f"{rows} rows, ms", median_seconds(steps, 3) / many * 1e3)
        if DEVICE.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
            steps()
            torch.cuda.set_sync_debug_mode("default")
            report(f"{rows} rows, steps without a synchronisation", many)
            report(f"{rows} rows, MiB at most", torch.cuda.max_memory_allocated() / 2**20)
        engine.close()
