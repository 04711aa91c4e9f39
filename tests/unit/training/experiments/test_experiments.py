"""The shipped experiments compose, check and build; a person's mistakes are told in one line."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from training.experiments import compose
from training.experiments.schema import (
    RECIPES,
    AutoencoderExperiment,
    DataConfig,
    DiffusionExperiment,
    DistillationExperiment,
    Experiment,
    ExperimentError,
    LightDecoderExperiment,
    to_plain,
)
from training.model.autoencoder import Autoencoder
from training.model.latent_diffusion import LatentDiffusion
from training.model.unet import UNet
from training.runs.identity import lineage_of

FIRST, SECOND = "digits_autoencoder", "digits_diffusion"


@cache
def filled(name: str) -> Experiment:
    """An experiment with something for every field that it needs a person to set."""
    config = compose.compose_fields([f"experiment={name}"])
    needed = sorted(OmegaConf.missing_keys(config))
    if needed:
        with pytest.raises(ExperimentError, match=f"^{needed[0]}: needed and not set; add {needed[0]}=VALUE$"):
            compose.validate(RECIPES[config["recipe"]], config)
    return compose.load(name, [f"{field}={32 if field.endswith('_size') else 'somewhere'}" for field in needed])


def loaded(name: str, *overrides: str) -> Experiment:
    return compose.load(name, [*(["autoencoder=somewhere"] if name == SECOND else []), *overrides])


@pytest.mark.parametrize("name", compose.names())
def test_every_experiment_composes(name: str) -> None:
    config = filled(name)
    trained = AutoencoderExperiment | DiffusionExperiment | DistillationExperiment | LightDecoderExperiment
    assert isinstance(config, trained)
    assert config.output == f"runs/{config.name}"


OF_OTHERS = ("ldm", "_f", "distillation", "light")  # the paper's, and those whose networks are made of their teacher's


@pytest.mark.parametrize("name", [name for name in compose.names() if not any(part in name for part in OF_OTHERS)])
def test_experiments_of_our_own_build(name: str) -> None:
    """Those of the paper are built by `test_paper_experiments`."""
    config = filled(name)
    with torch.device("meta"):
        if isinstance(config, AutoencoderExperiment):
            network: Autoencoder | UNet = Autoencoder(config.model)
        else:
            assert isinstance(config, DiffusionExperiment)
            network = UNet(config.model.unet)
    count = sum(p.numel() for p in network.parameters())
    assert count == 0 if name == "pixels" else 0 < count < 50_000_000


def test_no_two_experiments_write_to_one_folder() -> None:
    outputs = [filled(name).output for name in compose.names()]
    shared = {output for output in outputs if outputs.count(output) > 1}
    assert shared <= {"runs/digits"}  # its two stages are told apart by their names alone


def test_the_digits_models_have_the_size_that_was_tuned() -> None:
    first, second = loaded(FIRST), loaded(SECOND)
    assert isinstance(first, AutoencoderExperiment)
    assert isinstance(second, DiffusionExperiment)
    architecture: dict[str, Any] = {**to_plain(second.model), "autoencoder": to_plain(first.model)}
    architecture["conditioners"]["class_label"]["classes"] = 10  # those of the set
    model = LatentDiffusion.build(architecture)
    assert sum(p.numel() for p in model.autoencoder.parameters()) == 694_527
    assert sum(p.numel() for p in model.unet.parameters()) == 1_704_450
    assert second.model.unet.in_channels == second.model.unet.out_channels == first.model.latent_channels


def test_overrides_reach_the_field() -> None:
    config = loaded(
        FIRST, "steps=7", "optimiser.learning_rate=0.5", "data.root='/a b/c,d'", "seed=3", "data.crop=16",
        "checkpoint.every_steps=5", "model.codebook_unknown=17",
    )  # fmt: skip
    assert (config.steps, config.seed, config.data.root) == (7, 3, "/a b/c,d")
    assert (config.optimiser.learning_rate, config.data.crop, config.checkpoint.every_steps) == (0.5, 16, 5)
    assert isinstance(config, AutoencoderExperiment)
    assert config.model.codebook_unknown == 17
    assert config.model.image_channels == config.data.channels == 1
    assert loaded(FIRST, "name=mine").output == "runs/mine"


def test_a_conditioner_takes_the_fields_of_its_type() -> None:
    config = loaded(SECOND, "+model.conditioners.caption={type: text, width: 64, depth: 2, tokenizer: vocab.txt}")
    assert isinstance(config, DiffusionExperiment)
    assert [one.type for one in config.model.conditioners.values()] == ["class", "text"]
    caption = to_plain(config.model.conditioners["caption"])
    assert (caption["tokenizer"], caption["length"], caption["vocabulary"]) == ("vocab.txt", 77, 2000)
    assert to_plain(config.model.conditioners["class_label"])["classes"] is None


def test_the_data_alone_are_composed_without_an_experiment() -> None:
    config = compose.data(["data=images", "data.root=/some/where", "data.image_size=64", "data.held_out=0.2"])
    assert isinstance(config, DataConfig)
    assert (config.root, config.image_size, config.held_out, config.channels) == ("/some/where", 64, 0.2, 3)
    assert compose.data([]).name == "digits"
    assert compose.data(["data=shapes", "data.image_size=64"]).root == "data/shapes-64"


def test_a_release_s_lineage_has_no_paths() -> None:
    config = filled("text_ldm8")
    lineage = lineage_of(config, {"name": "set"})
    assert lineage["data"] == {"name": "set"}
    assert {"output", "autoencoder", "initial", "resume", "checkpoint"}.isdisjoint(lineage["experiment"])
    assert {"root", "prepared", "latents"}.isdisjoint(lineage["experiment"]["data"])
    assert lineage["experiment"]["steps"] == 390_000
    assert lineage["experiment"]["optimiser"]["betas"] == [0.9, 0.999]


# -- mistakes --------------------------------------------------------------------------------------

CONDITION = "model.conditioners.class_label"
FLOW = ["model.diffusion.schedule=flow", "model.diffusion.parameterisation=flow"]


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("digts", [], "experiment: 'digts' is not known; permitted: a path that ends in .yaml, bedrooms_ldm4, "),
        (SECOND, [], "autoencoder: needed and not set; add autoencoder=VALUE"),
        (FIRST, ["data=images", "data.image_size=32"], "data.root: needed and not set; add data.root=VALUE"),
        ("kl_f4", [], "data.root: needed and not set; add data.root=VALUE"),
        (FIRST, ["data=images", "data.root=x"], "data.image_size: needed and not set; add data.image_size=VALUE"),
        (FIRST, ["data=faces"], "data: 'faces' is not known; permitted: digits, images, shapes"),
        (FIRST, ["model.chanels=3"], "model.chanels: there is no such field; did you mean model.channels?"),
        ("kl_f4", ["data.rooot=x"], "data.rooot: there is no such field; did you mean data.root?"),
        (FIRST, ["+model.colour=3"], "model.colour: there is no such field"),
        (FIRST, ["+data.degradation.colour=3"], "data.degradation.colour: there is no such field"),
        (FIRST, ["++colour=3"], "colour: there is no such field"),
        (FIRST, ["~data.flip"], "data.flip: needed and not set"),
        (FIRST, ["model.channels=wide"], "model.channels: 'wide' is not allowed; permitted: a valid integer"),
        (FIRST, ["steps=0"], "steps: 0 is not allowed; permitted: greater than 0"),
        (FIRST, ["seed=-1"], "seed: -1 is not allowed"),
        (FIRST, ["name=My Model"], "name: 'My Model' is not allowed"),
        (FIRST, ["device=tpu"], "device: 'tpu' is not allowed; permitted: 'auto', 'cpu' or 'cuda'"),
        (FIRST, ["devices=0"], "devices: 0 is not allowed; permitted: greater than 0"),
        (FIRST, ["data.channels=2"], "data.channels: 2 is not allowed; permitted: 1 or 3"),
        (FIRST, ["data.held_out=1"], "data.held_out: 1 is not allowed; permitted: less than 1"),
        (FIRST, ["data.masks=round"], "data.masks: 'round' is not allowed; permitted: 'narrow', 'medium'"),
        (FIRST, ["data.degradation.kind=soft"], "data.degradation.kind: 'soft' is not allowed"),
        (FIRST, ["checkpoint.keep=0"], "checkpoint.keep: 0 is not allowed"),
        (FIRST, ["optimiser.betas=[0.9,2]"], "optimiser.betas.1: 2 is not allowed; permitted: less than 1"),
        (FIRST, ["steps"], "'steps' is not an override; write field=value"),
        (FIRST, ["steps=[1"], "'steps=[1' is not an override; write field=value"),
        (FIRST, ["name=${nowhere}"], "Interpolation key 'nowhere' not found"),
        (FIRST, ["recipe=gan"], "recipe: 'gan' is not known; permitted: autoencoder, diffusion"),
        (FIRST, ["model.regularisation=gan"], "model.regularisation: 'gan' is not allowed; permitted: 'kl', 'vq'"),
        (
            FIRST,
            ["model.regularisation=identity"],
            "model.latent_channels: 2 is not allowed with the identity; permitted: 1",
        ),
        (FIRST, ["data.crop=33"], "data.crop: 33 is not allowed; permitted: up to image_size, 32"),
        (FIRST, ["data.crop=0"], "data.crop: 0 is not allowed; permitted: greater than 0"),
        (
            FIRST,
            ["batch_size=8", "accumulate=3"],
            "batch_size: 8 is not allowed; permitted: multiples of accumulate x devices, 3 x 1, because all parts",
        ),
        (FIRST, ["batch_size=12", "accumulate=2", "devices=4"], "accumulate x devices, 2 x 4, because all parts"),
        (SECOND, ["data.crop=16"], "data.crop: latents that are encoded once cannot be cropped; permitted: null, or"),
        (SECOND, ["loss.condition_dropout=1"], "loss.condition_dropout: 1 is not allowed"),
        (SECOND, FLOW, "loss.min_snr_gamma: 5.0 is not allowed with zero_terminal_snr or the schedule 'flow': pure"),
        (SECOND, ["loss.norm=l1", "loss.min_snr_gamma=5"], "loss.min_snr_gamma: 5.0 is not allowed with loss.norm=l1"),
        (
            SECOND,
            ["model.diffusion.zero_terminal_snr=true", "model.diffusion.parameterisation=v"],
            "loss.min_snr_gamma: 5.0 is not allowed with zero_terminal_snr or the schedule 'flow': pure noise, where",
        ),
        (
            SECOND,
            ["model.diffusion.parameterisation=flow"],
            "model.diffusion.parameterisation: 'flow' is not allowed with the schedule 'scaled_linear'; permitted: eps",
        ),
        (
            SECOND,
            ["model.diffusion.parameterisation=mu"],
            "model.diffusion.parameterisation: 'mu' is not allowed; permitted: 'eps', 'x0', 'v' or 'flow'",
        ),
        (
            SECOND,
            ["loss.timestep_sampling.std=0"],
            "loss.timestep_sampling.std: 0 is not allowed; permitted: greater than 0",
        ),
        (SECOND, [f"{CONDITION}.type=clas"], f"{CONDITION}.type: 'clas' is not known; permitted: class, text, frozen_"),
        (SECOND, [f"~{CONDITION}.type"], f"{CONDITION}.type: needed and not set"),
        (SECOND, [f"~{CONDITION}.width"], f"{CONDITION}.width: needed and not set"),
        (SECOND, [f"+{CONDITION}.colour=3"], f"{CONDITION}.colour: there is no such field"),
        (SECOND, [f"{CONDITION}.widht=3"], f"{CONDITION}.widht: there is no such field; did you mean {CONDITION}.wid"),
        (SECOND, [f"{CONDITION}.width=0"], f"{CONDITION}.width: 0 is not allowed; permitted: greater than 0"),
        (SECOND, [f"+{CONDITION}.entry=door"], f"{CONDITION}.entry: 'door' is not allowed; permitted: 'cross_att"),
        (
            SECOND,
            ["+model.conditioners.caption={type: text, width: 64}"],
            "model.conditioners.caption.depth: needed and not set",
        ),
        (
            SECOND,
            ["+model.conditioners.map={type: semantic_map, channels: 1, stages: -1}"],
            "model.conditioners.map.stages: -1 is not allowed; permitted: greater than or equal to 0",
        ),
        (SECOND, ["+model.conditioners.caption=5"], "model.conditioners.caption: 5 is not allowed"),
        (
            SECOND,
            ["+model.conditioners.Caption={type: class, width: 64}"],
            "model.conditioners.Caption: 'Caption' is not allowed; permitted: a string that matches",
        ),
        ("text_ldm8", ["autoencoder=x", "data.root=x"], "model.conditioners.caption.tokenizer: needed and not set; a"),
        (FIRST, ["data=null"], "data: null is not known; permitted: digits, images, shapes"),
        (FIRST, ["recipe=null"], "recipe: null is not known; permitted: autoencoder, diffusion"),
        (FIRST, ["experiment=null"], "experiment: null is not known; permitted: bedrooms_ldm4"),
        (FIRST, ["steps=1,2"], "'steps=1,2' has several values; permitted: one"),
        (FIRST, ["model.codebook_unknown=[1]"], "model.codebook_unknown: [1] is not allowed; permitted:"),
    ],
)
def test_mistakes_name_the_field_in_one_line(name: str, overrides: list[str], message: str) -> None:
    needed = ["autoencoder=somewhere"] if name == SECOND and overrides else []
    with pytest.raises(ExperimentError) as caught:
        compose.load(name, [*needed, *overrides])
    assert message in str(caught.value)
    assert not re.search(r"\n|pydantic|function-|\[key\]|Condition\b", str(caught.value))


def test_an_optional_field_of_a_conditioner_can_be_set() -> None:
    config = loaded(SECOND, f"{CONDITION}.entry=time_embedding")
    assert isinstance(config, DiffusionExperiment)
    assert to_plain(config.model.conditioners["class_label"])["entry"] == "time_embedding"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=images", "data.rot=x"], "data.rot: there is no such field; did you mean data.root?"),
        (["data.image_size=big"], "data.image_size: 'big' is not allowed; permitted: a valid integer"),
        (["data=faces"], "data: 'faces' is not known; permitted: digits, images, shapes"),
        (["data=images", "data.root=x"], "data.image_size: needed and not set; add data.image_size=VALUE"),
        (["data=images", "data.image_size=64"], "data.root: needed and not set; add data.root=VALUE"),
        (["data.rot=x"], "data.rot: there is no such field; did you mean data.root?"),
    ],
)
def test_mistakes_of_the_data_alone_are_told_alike(overrides: list[str], message: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        compose.data(overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_one_s_own_may_begin_from_an_experiment(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("defaults: [shapes_text, _self_]\nname: mine\nmodel: {unet: {channels: 96}}\n")
    found = compose.load(str(path), ["autoencoder=x", "steps=77"])
    assert isinstance(found, DiffusionExperiment)
    shipped = compose.load("shapes_text", ["autoencoder=x"])
    assert isinstance(shipped, DiffusionExperiment)
    model = replace(shipped.model, unet=replace(shipped.model.unet, channels=96))
    assert found == replace(shipped, name="mine", output="runs/mine", steps=77, model=model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        ("name: [mine", r"is not YAML \(while parsing .* line 1.*\)"),
        ("3", r"mine.yaml is not a mapping of fields to values$"),
        ("- 1", r"mine.yaml is not a mapping of fields to values$"),
        ("defaults: 3", r"mine.yaml: defaults: 3 is not allowed; permitted: a list, such as \[emoji_text, _self_\]$"),
        ("defaults: [shapes_texts]", r".*Could not load 'experiment/shapes_texts'.*"),
        ("steps: 5", r"^recipe: null is not known; permitted: autoencoder, diffusion, distillation, light_decoder$"),
        ("defaults: [shapes_text, _self_]\nstepz: 6", r"^stepz: there is no such field; did you mean steps\?$"),
    ],
)
def test_mistakes_in_a_file_of_ones_own_are_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ExperimentError, match=message) as caught:
        compose.load(str(path))
    assert "\n" not in str(caught.value)
