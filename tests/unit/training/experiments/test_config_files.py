"""The files of `configs/` explain every field, and have every field of the dataclasses that read them."""

import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, get_args

import pytest
import yaml

from training.experiments import compose
from training.experiments.conditions import Condition
from training.experiments.schema import (
    AutoencoderExperiment,
    CheckpointConfig,
    DiffusionExperiment,
    DistillationExperiment,
    LightDecoderExperiment,
    SharedFields,
)
from training.model.autoencoder import AutoencoderConfig
from training.model.diffusion import DiffusionConfig
from training.model.unet import UNetConfig
from training.recipes.distillation_loss import DistillationLossConfig
from training.recipes.light_decoder_loss import LightDecoderLossConfig
from training.recipes.losses import AutoencoderLossConfig
from training.recipes.optimiser import OptimiserConfig


def undocumented(file: str) -> list[str]:
    """The fields of a file of `configs/` that hold a value and have no comment, on their line or above it."""
    found: list[str] = []
    path: list[str] = []
    above = False
    for line in (compose.CONFIGS / file).read_text().splitlines():
        if match := re.match(r"( *)([a-z_0-9]+):( .*|$)", line):
            path[len(match[1]) // 2 :] = [match[2]]
            value, _, comment = match[3].partition("#")
            if value.strip() and not comment.strip() and not above and path != ["recipe"]:
                found.append(".".join(path))
        above = line.strip().startswith("#")
    return found


def leaves(content: Any, prefix: str = "") -> set[str]:
    """Dotted names of what holds a value."""
    if not isinstance(content, dict) or not content:
        return {prefix}
    return {leaf for key, value in content.items() for leaf in leaves(value, f"{prefix}{'.' if prefix else ''}{key}")}


def declared(kind: Any, *without: str) -> set[str]:
    """Dotted names of a dataclass's fields."""
    names: set[str] = set()
    for one in fields(kind):
        if one.name not in without:
            nested = is_dataclass(one.type)
            names |= {f"{one.name}.{name}" for name in declared(one.type)} if nested else {one.name}
    return names


def documented(file: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((compose.CONFIGS / file).read_text())
    return content


@pytest.mark.parametrize(
    "file",
    [
        "train.yaml",
        "recipe/autoencoder.yaml",
        "recipe/diffusion.yaml",
        "recipe/distillation.yaml",
        "recipe/light_decoder.yaml",
    ],
)
def test_every_field_is_explained_on_its_line(file: str) -> None:
    assert undocumented(file) == []


def test_the_file_of_every_experiment_has_all_fields_that_they_share() -> None:
    content = documented("train.yaml")
    assert leaves({key: value for key, value in content.items() if key not in ("defaults", "recipe")}) == declared(
        SharedFields
    )
    assert set(content["checkpoint"]) == {one.name for one in fields(CheckpointConfig)}
    assert set(content["optimiser"]) == {one.name for one in fields(OptimiserConfig)}


@pytest.mark.parametrize(
    ("file", "keys", "kind"),
    [
        ("recipe/autoencoder.yaml", ["model"], AutoencoderConfig),
        ("recipe/autoencoder.yaml", ["loss"], AutoencoderLossConfig),
        ("recipe/diffusion.yaml", ["model", "unet"], UNetConfig),
        ("recipe/distillation.yaml", ["loss"], DistillationLossConfig),
        ("recipe/light_decoder.yaml", ["loss"], LightDecoderLossConfig),
        ("recipe/diffusion.yaml", ["model", "diffusion"], DiffusionConfig),
    ],
)
def test_a_recipe_has_every_field_of_its_parts(file: str, keys: Sequence[str], kind: type) -> None:
    content = documented(file)
    for key in keys:
        content = content[key]
    assert set(content) == {one.name for one in fields(kind)}
    if kind is not DiffusionConfig:
        assert kind is UNetConfig or set(content) == set(asdict(kind()))


def test_a_recipe_has_every_field_of_its_experiments() -> None:
    of_all = {one.name for one in fields(SharedFields)} | {"recipe"}
    for kind, file in (
        (AutoencoderExperiment, "autoencoder"), (DiffusionExperiment, "diffusion"),
        (DistillationExperiment, "distillation"), (LightDecoderExperiment, "light_decoder"),
    ):  # fmt: skip
        own = {one.name for one in fields(kind)} - of_all
        assert set(documented(f"recipe/{file}.yaml")) - {"defaults", "recipe"} == own


def test_data_files_have_no_fields_of_their_own_and_say_what_they_are() -> None:
    known = set(documented("train.yaml")["data"])
    for path in (compose.CONFIGS / "data").glob("*.yaml"):
        first, second, *_ = path.read_text().splitlines()
        assert first == "# @package data"
        assert second.startswith("# ")
        assert set(yaml.safe_load(path.read_text())) <= known


def test_the_diffusion_recipe_names_every_type_of_conditioner_and_what_it_needs() -> None:
    text = (compose.CONFIGS / "recipe" / "diffusion.yaml").read_text()
    for kind in get_args(get_args(Condition)[0]):
        name, *needed = (one.name for one in fields(kind) if one.default is MISSING)
        (tag,) = get_args({one.name: one.type for one in fields(kind)}[name])
        line = re.search(rf"^ *# +[a-z_]+: \{{type: {tag}\b.*", text, re.MULTILINE)
        assert line is not None, tag
        assert all(f"{field}:" in line[0] for field in needed), (tag, needed)


@pytest.mark.parametrize("name", compose.names())
def test_an_experiment_says_what_it_is(name: str) -> None:
    lines = (compose.CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# ")
