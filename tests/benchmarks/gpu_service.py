"""Parts of `tests.benchmarks.gpu` about serving the paper's LDM-4: decoding, its start, images an hour."""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch

from services.job_requests.image_spec import ImageSpec
from services.worker.compile_apart import Networks, compile_apart
from services.worker.compile_cache import Cache
from services.worker.encoding import encode_image
from services.worker.engine import Engine
from services.worker.execution import Execution
from services.worker.images import Developed
from services.worker.pack import DECODE_ROWS
from services.worker.precompile import Choice, count_compiled, load
from tests.benchmarks.gpu import SHARED
from tests.benchmarks.gpu_parts import LDM4, develop
from tests.benchmarks.gpu_timing import DEVICE, PROFILE, Report, median_seconds, prepares, synchronise
from tests.support.releases import make_tiny_release
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.latent_diffusion import LatentDiffusion, as_json, save_diffusion
from training.model.pixels import to_bytes
from training.model.release import MANIFEST

FIRST = AutoencoderConfig(latent_channels=3, regularisation="vq", codebook_size=8192)
STEPS, SCALE = 20, 2.0  # guided, with dpm_solver_2m
ROWS = 64
STAGE, NUMBER = "stage: ", "number: "  # begin lines of the process that serves


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


def service(smallest: bool, report: Report) -> None:
    """Seconds from the start of a process to its first image with a compile cache, and then images an hour."""
    shared = Path(os.environ.get(SHARED, tempfile.gettempdir())) / "ldm4"
    cache, seconds = shared.with_suffix(".cache"), shared.with_suffix(".json")
    if not (shared / MANIFEST).exists():
        write_release(shared, smallest)
    rows = 4 if smallest else ROWS
    if DEVICE.type == "cuda" and not cache.exists():
        begun = time.perf_counter()
        cache.write_bytes(compile_apart(Networks(str(shared), rows, DECODE_ROWS["cuda"], "cuda", PROFILE), 180))
        seconds.write_text(json.dumps(time.perf_counter() - begun))
    if prepares():
        return
    if seconds.exists():
        report("compiling in a process of its own, beside other parts, s", json.loads(seconds.read_text()))
    with tempfile.TemporaryDirectory() as folder:
        code = f"from tests.benchmarks import gpu_service as g; g.serve({str(shared)!r}, {str(cache)!r}, {rows})"
        begun, known = time.time(), 0.0
        with subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder}, text=True,
            stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(STAGE):
                    name, at = json.loads(line.removeprefix(STAGE))
                    report(f"cold start, {name}, s", at - begun - known)
                    known = at - begun
                elif line.startswith(NUMBER):
                    report(*json.loads(line.removeprefix(NUMBER)))
        report("cold start, whole, s", known)
    if process.returncode:
        raise SystemExit(f"the engine ended with exit code {process.returncode}")


def serve(folder: str, cache_file: str, rows: int) -> None:
    """Start an engine and make images. Prints when each stage of the start ended, and what was measured."""
    stage("imports")
    if DEVICE.type == "cuda":
        torch.zeros(1, device=DEVICE)
    stage("the device")
    digest = None
    if Path(cache_file).exists():
        cache = Cache.of(Path(cache_file).read_bytes())
        load(cache)
        digest = cache.sha256
    stage("compile cache")
    engine = Engine[str](Path(folder), rows=rows, device=DEVICE.type, profile=PROFILE, cache=digest)
    stage("weights, kernels, self-test")
    develop(engine, [1])
    stage("first image")
    compiled = count_compiled(Choice(PROFILE, digest))
    number("networks that were compiled again", compiled)
    end_to_end(engine, 3 * rows if DEVICE.type == "cuda" else rows)


def end_to_end(engine: Engine[str], images: int) -> None:
    """Print images an hour of the engine with decoding and PNG files: 20 guided steps each."""
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
    number("images an hour, 20 guided steps, decoded, as PNG", 3600 * images / seconds)
    number("a step with everything, ms", seconds / steps * 1e3)
    number("MB of PNG", size / 1e6)
    if DEVICE.type == "cuda":
        number("GiB at most", torch.cuda.max_memory_allocated() / 2**30)


def stage(name: str) -> None:
    """Print when a stage of the start ended."""
    synchronise()
    print(f"{STAGE}{json.dumps([name, time.time()])}", flush=True)


def number(name: str, value: float) -> None:
    """Print what was measured."""
    print(f"{NUMBER}{json.dumps([name, value])}", flush=True)
