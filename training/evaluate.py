"""Evaluate a release on an image set: `python -m training.evaluate RELEASE DATA OUTPUT`."""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from training.commands import run_command
from training.data import image_set
from training.data.conditions import other_classes, types_of
from training.data.image_set import DataError, ImageSet
from training.data.rows import crop_centres
from training.evaluation import against, first_stage, light_decoder, networks, second_stage
from training.evaluation.networks import Weights
from training.evaluation.second_stage import Sampling
from training.model import light_release
from training.model.latent_diffusion import load_autoencoder, load_diffusion
from training.model.release import Release, ReleaseError
from training.model.release import read as read_release

COMPARED_BY = ("data_fingerprint", "features_digest", "sampling", "images")


def run(
    release: Path, data: Path, output: Path, sampling: Sampling | None = None, weights: Weights | None = None
) -> dict[str, Any]:
    """Evaluate a release folder on the image set `data`; write metrics.json and image sheets to `output`.

    Raises ReleaseError, DataError, ValueError or FileNotFoundError.
    """
    images = image_set.read(data)
    description = read_release(release)
    images = fit_images(images, description)
    output.mkdir(parents=True, exist_ok=True)
    judges = networks.load(weights or Weights(), images, data, output)
    if description.kind == "autoencoder":
        autoencoder, _ = load_autoencoder(release)
        scores = first_stage.score(autoencoder, images, output, judges)
    else:
        model, _ = load_diffusion(release)
        scores = second_stage.score(model, description, images, output, sampling or Sampling(), judges)
    complete = {
        "release": description.name,
        "release_digest": description.digest,
        "data": images.description.name,
        "data_fingerprint": images.description.fingerprint,
        **scores,
    }
    complete["fingerprint"] = fingerprint(complete)
    (output / "metrics.json").write_text(json.dumps(complete, indent=2) + "\n")
    return complete


def run_decoders(release: Path, data: Path, output: Path, weights: Weights | None = None) -> dict[str, Any]:
    """Evaluate the light decoder of a release folder beside its own decoder on the image set `data`.

    Writes decoders.json and decoders.png to `output`. Raises as `run`, and ReleaseError for a release without one.
    """
    images = image_set.read(data)
    autoencoder, description = load_autoencoder(release)
    light = light_release.load(release, description)
    if light is None:
        raise ReleaseError(f"{release}: has no light decoder; make one with darkroom distil-decoder")
    images = fit_images(images, description)
    output.mkdir(parents=True, exist_ok=True)
    judges = networks.load(weights or Weights(), images, data, output)
    about = {"data": images.description.name, "data_fingerprint": images.description.fingerprint}
    scores = {**about, **light_decoder.score(autoencoder, light, images, output, judges)}
    (output / "decoders.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores


def run_against(
    release: Path,
    other: Path,
    data: Path,
    output: Path,
    sampling: Sampling | None = None,
    other_sampling: Sampling | None = None,
    weights: Weights | None = None,
) -> dict[str, Any]:
    """Compare two release folders on the image set `data`; write comparison.json and comparison.png to `output`.

    other_sampling: of the other release, by default as the first. Raises as `run`, and ComparisonError for releases
    that cannot be compared.
    """
    images = image_set.read(data)
    descriptions = read_release(release), read_release(other)
    against.check_comparable(*descriptions)
    images = fit_images(images, descriptions[0])
    output.mkdir(parents=True, exist_ok=True)
    judges = networks.load(weights or Weights(), images, data, output)
    first = sampling or Sampling()
    return against.compare(release, other, descriptions, images, output, (first, other_sampling or first), judges)


def fingerprint(scores: Mapping[str, Any]) -> str:
    """Hash what figures depend on apart from the release. Only evaluations of one fingerprint are comparable."""
    settings = json.dumps([scores.get(name) for name in COMPARED_BY], sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()


def fit_images(images: ImageSet, description: Release) -> ImageSet:
    """Return the set with its images cropped to the size of the release's.

    Raises DataError unless they then have the release's shape and classes, and some are held out.
    """
    images = crop_centres(images, min(images.image_size, description.image_shape[1]))
    channels, size = images.channels, images.image_size
    if (channels, size, size) != description.image_shape:
        raise DataError(f"data.root: images of {channels}x{size}x{size}; the release makes {description.image_shape}")
    if description.kind == "diffusion":
        for field, kind in types_of(description).items():
            other = other_classes(description, field, description.name, images.description)
            if kind == "class" and other is not None:
                raise DataError(f"data.root: {field}: {other}")
    if not images.rows("held_out"):
        raise DataError("data.root: no image is held out; prepare the set with data.held_out above 0")
    return images


def table(scores: Mapping[str, Any]) -> Table:
    """Return the figures as a table, one row each."""
    rows = Table("figure", "value", title=f"{scores['release']} on {scores['data']}", title_justify="left")
    for name, value in scores.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key.replace('_', ' ')} {format_figure(inner)}" for key, inner in value.items())
        elif name.endswith(("digest", "fingerprint")):
            value = value[:12]
        rows.add_row(name.replace("_", " "), format_figure(value))
    return rows


def table_against(scores: Mapping[str, Any]) -> Table:
    """Return a comparison as a table, a row for each figure."""
    title = f"{scores['release']} against {scores['against']} on {scores['data']}: {scores['verdict']}"
    columns = ("figure", scores["release"], scores["against"], "difference", "verdict", "detectable")
    rows = Table(*columns, title=title, title_justify="left")
    for name, figure in scores["figures"].items():
        low, high = figure["interval"]
        interval = f"{figure['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
        values = (format_figure(figure["release"]), format_figure(figure["against"]))
        rows.add_row(name.replace("_", " "), *values, interval, figure["verdict"], format_figure(figure["detectable"]))
    return rows


def table_decoders(scores: Mapping[str, Any]) -> Table:
    """Return the figures of both decoders of a release as a table, a row for each figure."""
    title = f"the decoders on {scores['data']}: {scores['operations_ratio']:.1f} times fewer operations"
    rows = Table("figure", "full", "light", "difference", title=title, title_justify="left")
    for name, full in scores["full"].items():
        light = scores["light"][name]
        if name not in ("images", "features", "features_digest"):
            rows.add_row(name.replace("_", " "), *map(format_figure, (full, light, light - full)))
    for name, value in scores["light_to_full"].items():
        rows.add_row(f"{name} to the full decoder", "", format_figure(value), "")
    return rows


def format_figure(value: Any) -> str:
    """Return a figure as text, a float with four decimals."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling and of network weights."""
    for field, value in asdict(Sampling()).items():
        usual = "the service's" if value is None else value
        parser.add_argument(f"--{field}", type=Sampling.parsers()[field], default=value, help=f"default: {usual}")
    parser.add_argument(
        "--inception", type=Path, metavar="FILE", help="published Inception weights for the Fréchet distance"
    )
    parser.add_argument("--vgg", metavar="FILE", help="published VGG-16 weights for LPIPS, path or URL")
    parser.add_argument("--lpips", metavar="FILE", help="published LPIPS weights, path or URL")
    parser.add_argument(
        "--clip", type=Path, metavar="FOLDER", help="a CLIP model in the layout of the transformers library"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("release", type=Path, help="release folder of an autoencoder or a diffusion model")
    parser.add_argument("data", type=Path, help="folder of an image set")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--against", type=Path, metavar="RELEASE", help="compare with this release folder instead")
    parser.add_argument("--against-steps", type=int, metavar="N", help="steps of that release; default: as --steps")
    add_arguments(parser)
    given = vars(parser.parse_args(arguments))

    def command() -> None:
        sampling = Sampling(**{field: given[field] for field in asdict(Sampling())})
        weights = Weights(**{field: given[field] for field in asdict(Weights())})
        folders = given["data"], given["output"]
        if given["against"] is None:
            Console(width=110).print(table(run(given["release"], *folders, sampling, weights)))
            return
        steps = sampling.steps if given["against_steps"] is None else given["against_steps"]
        other = replace(sampling, steps=steps)
        scores = run_against(given["release"], given["against"], *folders, sampling, other, weights)
        Console(width=140).print(table_against(scores))

    # A ValueError and a FileNotFoundError name their field.
    return run_command(command, mistakes=(ValueError, FileNotFoundError), logs=lambda: given["output"])


if __name__ == "__main__":
    sys.exit(main())
