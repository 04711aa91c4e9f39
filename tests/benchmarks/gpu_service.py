"""Parts of `tests.benchmarks.gpu` about serving the paper's LDM-4: decoding, its start, images an hour, its memory."""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from services.job_requests.image_spec import ImageSpec
from services.registry.release_cache import ReleaseCache
from services.settings import load
from services.worker.encoding import encode_image
from services.worker.engine import Engine
from services.worker.engine_cache import EngineCache
from services.worker.execution import Execution
from services.worker.images import Developed
from services.worker.self_test import SelfTest
from tests.benchmarks.gpu_parts import DEVICE, LDM4, PROFILE, Report, develop, median_seconds
from tests.support.releases import make_tiny_release
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.latent_diffusion import LatentDiffusion, as_json, save_diffusion
from training.model.pixels import to_bytes
from training.model.release import read

FIRST = AutoencoderConfig(latent_channels=3, regularisation="vq", codebook_size=8192)
STEPS, SCALE = 20, 2.0  # guided, with dpm_solver_2m


def write_release(folder: Path, smallest: bool) -> Path:
    """Write LDM-4 with random weights, 1.8 GB, or a tiny release. Returns the folder."""
    if smallest:
        return make_tiny_release(folder)
    torch.manual_seed(0)
    with torch.device(DEVICE):  # where initialising takes no time
        model = LatentDiffusion.build(
            {
                "autoencoder": as_json(asdict(FIRST)),
                "unet": as_json(asdict(LDM4)),
                "conditioners": {"class_label": {"type": "class", "classes": 1000, "width": 512}},
                "diffusion": {},
            }
        )
        for parameter in model.unet.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    save_diffusion(folder, model.cpu().eval(), name="ldm4", image_size=256)
    return folder


@contextmanager
def release(smallest: bool) -> Iterator[Path]:
    """Yield a release that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_release(Path(folder) / "release", smallest)


def decode(smallest: bool, report: Report) -> None:
    """Images a second of the first stage of LDM-4, in groups, to bytes on the host."""
    config = AutoencoderConfig(channels=32, multipliers=(1, 1), res_blocks=1) if smallest else FIRST
    side, execution = (8 if smallest else 64), Execution.choose(PROFILE, DEVICE)
    model = Autoencoder(config).eval().to(DEVICE)
    for module in (model.decoder, model.post_quant_conv):
        module.to(execution.dtype)
    function = execution.decode()
    for rows in (2,) if smallest else (8, 16, 32):
        latents = torch.randn(rows, config.latent_channels, side, side, device=DEVICE)
        with torch.inference_mode():
            seconds = median_seconds(lambda: to_bytes(function(model, latents)), 5)  # noqa: B023
        report(f"groups of {rows}, images/s", rows / seconds)


def start_engine(folder: str, rows: int) -> None:
    """Time a start in this process by stage, and print it as JSON."""
    begun = time.perf_counter()
    if DEVICE.type == "cuda":
        torch.zeros(1, device=DEVICE)
    context = time.perf_counter()
    engine = Engine[str](Path(folder), rows=rows, device=DEVICE.type, profile=PROFILE)
    loaded = time.perf_counter()
    develop(engine, [1])
    print(json.dumps({"device": context - begun, "load": loaded - context, "image": time.perf_counter() - loaded}))


def cold_start(smallest: bool, report: Report) -> None:
    """Seconds from the start of a process to its first image, without and with the compile cache of the one before."""
    with release(smallest) as folder, tempfile.TemporaryDirectory() as cache:
        code = (
            f"from tests.benchmarks import gpu_service as g; g.start_engine({str(folder)!r}, {4 if smallest else 64})"
        )
        for name in ("without", "with"):
            begun = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", code], env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            whole = time.perf_counter() - begun
            stages = json.loads(done.stdout.splitlines()[-1])
            report(f"{name} the compile cache, s", whole)
            report(f"{name} it: imports, s", whole - sum(stages.values()))
            for stage, what in (("device", "the device"), ("load", "weights, compiler, self-test"), ("image", "image")):
                report(f"{name} it: {what}, s", stages[stage])


def end_to_end(smallest: bool, report: Report) -> None:
    """Images an hour of the engine with decoding and PNG files: 20 guided steps each."""
    rows, images = (4, 4) if smallest else (64, 192)
    with release(smallest) as folder:
        engine = Engine[str](folder, rows=rows, device=DEVICE.type, profile=PROFILE)
    develop(engine, [1])
    for index in range(images):
        spec = ImageSpec(index, 0, index, STEPS, "dpm_solver_2m", SCALE)
        engine.add("owner", engine.request(spec, engine.read_conditions({"class_label": index % 10})))
    begun, steps, files = time.perf_counter(), 0, []
    with ThreadPoolExecutor(4) as pool:
        while engine.busy:
            for image in engine.step():
                assert isinstance(image, Developed), image
                files.append(pool.submit(encode_image, image.pixels, "png"))
            steps += 1
        size = sum(len(file.result()) for file in files)
    seconds = time.perf_counter() - begun
    assert len(files) == images
    report("images an hour", 3600 * images / seconds)
    report("a step with everything, ms", seconds / steps * 1e3)
    report("MB of PNG", size / 1e6)


def out_of_memory(smallest: bool, report: Report) -> None:
    """A device with little memory left serves with fewer rows, and gives the bytes of that many rows.

    On a CPU the memory is said to end at more than 4 rows.
    """
    rows = 8 if smallest else 1024
    with tempfile.TemporaryDirectory() as name, release(True) as folder:
        given = {
            "S3_BUCKET": "none", "DATABASE_URL": "postgresql://nobody@localhost/none", "BROKER_URL": "redis://localhost/0",
            "CACHE_DIR": name, "ROOT": name, "ROWS": str(rows), "DEVICE": DEVICE.type, "PROFILE": "bf16",
        }  # fmt: skip
        settings = load("worker", {f"DARKROOM_{key}": value for key, value in given.items()})
        cache: Any = EngineCache(None, settings)  # type: ignore[arg-type]  # nothing is fetched
        ReleaseCache.load = lambda self, manifest, build: build(folder)  # type: ignore[method-assign]
        taken = fill_memory(needed_bytes(folder, rows) // 2)
        engine = cache.get(read(folder).to_json())
        found = develop(engine, list(range(8)))
        del taken
        report(f"rows that fit, of {rows}", engine.rows)
        assert engine.rows < rows, "the memory was not full"
        other = Engine[str](folder, rows=engine.rows, decode=engine.decode_rows, device=DEVICE.type, profile="bf16")
        assert develop(other, list(range(8))) == found, "images have other bytes than those of as many rows"
        report("images with the bytes of as many rows", len(found))


def needed_bytes(folder: Path, rows: int) -> int:
    """Return how much of a GPU's memory an engine needs, having loaded libraries and kernels by the way."""
    if DEVICE.type != "cuda":
        return 0
    before = torch.cuda.memory_allocated()
    engine = Engine[str](folder, rows=rows, device=DEVICE.type, profile="bf16")
    develop(engine, list(range(8)))
    engine.close()
    del engine
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.max_memory_reserved() - before


def fill_memory(left: int) -> object:
    """Take the device's memory but for so many bytes. Returns what holds it."""
    if DEVICE.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return torch.empty(max(0, free - left), dtype=torch.uint8, device=DEVICE)
    check = SelfTest.check_step

    def fail(self: SelfTest, take_step: Any, null: Any, rows: int) -> None:
        if rows > 4:
            raise torch.OutOfMemoryError("simulated")
        check(self, take_step, null, rows)

    SelfTest.check_step = fail  # type: ignore[method-assign]  # for the rest of this process
    return None
