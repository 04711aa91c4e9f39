"""Checkpoints of others against their own code: `python -m tests.benchmarks.checkpoints [--authors DIR] [RECORDINGS]`.

Imports each model, samples it, and prints the relative difference from the original; then exports the release to
diffusers and to the authors' layout, and prints the difference of those. Weights are small and random. The original of
the authors' model zoo is their own code, in the folder DIR: `pip install --no-deps --target DIR einops
stable-diffusion-sdkit==2.1.5`. That of Stable Diffusion's files is diffusers, with weights that its own converters read
from the same file; that of folders of diffusers, diffusers. In the folder RECORDINGS is what the authors' code
answered.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from tests.benchmarks import checkpoints_diffusers, checkpoints_zoo
from tests.support.comparison import relative_error
from tests.support.stable_diffusion_runs import KINDS, import_files, sample_here, sample_there
from tests.support.zoo import ZOO
from training.model import sampling
from training.model.guidance import Guidance
from training.model.interop import huggingface
from training.model.interop.compvis import writing
from training.model.interop.compvis.options import Options
from training.model.interop.compvis.release import import_release
from training.model.latent_diffusion import load_diffusion
from training.model.release import read

RECORDED = ("ldm_unconditional_vq", "ldm_class_kl")


class Row(NamedTuple):
    """A model: its difference from the original when imported, and when exported again, or why it is not.

    exported: to diffusers. written: to the authors' layout.
    """

    model: str
    original: str
    imported: float
    exported: str
    written: str


def stable_diffusion(kind: str, folder: Path) -> Row:
    """Measure a kind of Stable Diffusion over a whole guided run."""
    release, parts = import_files(kind, folder)
    expected = sample_there(parts, KINDS[kind].get("prediction", "eps"))
    imported = relative_error(sample_here(release), expected)
    return Row(f"Stable Diffusion {kind}", "diffusers", imported, export(release), write(release))


def export(release: Path) -> str:
    """Return the difference between a release of Stable Diffusion and what diffusers makes of its export."""
    from diffusers import DiffusionPipeline

    out = release.parent / "exported"
    try:
        huggingface.export(release, out)
    except huggingface.ExportError as error:
        return refusal(error)
    if not (out / "model_index.json").is_file():
        return "parts alone"
    pipeline = DiffusionPipeline.from_pretrained(out, safety_checker=None)
    parts = {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    prediction = "v" if pipeline.scheduler.config.prediction_type == "v_prediction" else "eps"
    return f"{relative_error(sample_here(release), sample_there(parts, prediction)):.1e}"


def write(release: Path, **options: Any) -> str:
    """Return whether a release that is exported to the authors' layout is read as the same one, or why it is not.

    options: of the reader.
    """
    out = release.parent / "written"
    try:
        writing.export(release, out)
    except writing.CompVisExportError as error:
        return refusal(error)
    files = (out / writing.CHECKPOINT, out / writing.CONFIG)
    again, _ = import_release(*files, release.parent / "again", name="again", options=Options(beside=out, **options))
    before = read(release)
    weights = [
        {n: one.sha256 for n, one in each.files.items() if n.endswith(".safetensors")} for each in (before, again)
    ]
    return "exact" if again.architecture == before.architecture and weights[0] == weights[1] else "not the same"


def refusal(error: Exception) -> str:
    """Return why a release is not exported, for a cell of the table."""
    return f"refused: {str(error).partition(' cannot be')[0]}"


@torch.inference_mode()
def recorded(name: str, weights: Any, recordings: Path, folder: Path) -> Row:
    """Measure a model whose whole run the authors' code recorded."""
    source = recordings / name
    options = Options(weights=weights)
    import_release(source / "model.ckpt", source / "config.yaml", folder / "release", name="m", options=options)
    model, _ = load_diffusion(folder / "release")
    tensors, run = load_file(source / "sampling.safetensors"), json.loads((source / "sampling.json").read_text())
    requests: list[dict[str, Any]] = [{} for _ in tensors["x_T"]]
    for field, part in model.conditioners.by_field().items():
        table = torch.as_tensor(part.get_parameter("embedding.weight"))
        requests = [{field: int((table - token).norm(dim=1).argmin())} for token in tensors["context"][:, 0]]
    images = sampling.generate(
        model,
        requests,
        range(len(requests)),
        latent_shape=tensors["x_T"].shape[1:],
        start=tensors["x_T"],
        sampler=sampling.Sampler(run["sampler"], run["steps"], "leading", eta=run["eta"]),
        guidance=Guidance(run["guidance_scale"]),
    )
    expected = tensors["image_ema" if weights == "ema" else "image"].clamp(-1, 1)
    try:
        exported = f"as {huggingface.export(folder / 'release', folder / 'exported')}"
    except huggingface.ExportError as error:
        exported = refusal(error)
    written = write(folder / "release")
    return Row(f"{name}, {weights}", "recorded", relative_error(images, expected), exported, written)


def measure(recordings: Path | None, authors: Path | None) -> Iterator[Row]:
    """Yield a row for every model."""
    for name in ZOO if authors is not None else ():
        assert authors is not None
        with TemporaryDirectory() as folder:
            imported, exported, written = checkpoints_zoo.measure(name, authors, Path(folder))
            yield Row(name, "the authors' code", imported, exported, written)
    for name in RECORDED if recordings is not None else ():
        for weights in ("raw", "ema"):
            with TemporaryDirectory() as folder:
                assert recordings is not None
                yield recorded(name, weights, recordings, Path(folder))
    for kind in KINDS:
        with TemporaryDirectory() as folder:
            yield stable_diffusion(kind, Path(folder))
    for name in checkpoints_diffusers.CASES:
        with TemporaryDirectory() as folder:
            imported, exported = checkpoints_diffusers.measure(name, Path(folder))
            yield Row(name, "diffusers", imported, exported, write(Path(folder) / "release"))
    for name in ("AutoencoderKL", "VQModel"):
        with TemporaryDirectory() as folder:
            imported, exported = checkpoints_diffusers.measure_autoencoder(name, Path(folder))
            yield Row(name, "diffusers", imported, exported, write(Path(folder) / "release", latent_scale=0.7))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path, nargs="?", help="folder with recordings of the authors' code")
    parser.add_argument("--authors", type=Path, help="folder with the authors' package ldm")
    options = parser.parse_args(arguments)
    print("| model | original | imported | to diffusers | to the authors' layout |")
    print("| --- | --- | ---: | --- | --- |")
    for row in measure(options.recordings, options.authors):
        print(f"| {row.model} | {row.original} | {row.imported:.1e} | {row.exported} | {row.written} |", flush=True)


if __name__ == "__main__":
    main()
