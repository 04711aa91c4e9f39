"""The experiments of the models of Rombach et al. 2022 build, have the published sizes and say nothing twice."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from training.experiments import compose
from training.experiments.conditions import (
    ClassCondition,
    Condition,
    LayoutCondition,
    LowResolutionCondition,
    MaskedImageCondition,
    SemanticMapCondition,
    TextCondition,
)
from training.experiments.schema import AutoencoderExperiment, DiffusionExperiment, to_plain
from training.model import conditioners
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners.text_tokenizer import read_assets
from training.model.unet import UNet

MILLION = 10**6
PIECES = 30_522  # of bert-base-uncased

# Of encoder, decoder and codebook. The paper prints no size of a first stage.
AUTOENCODERS = {
    "kl_f4": 55_312_063,
    "kl_f8": 83_653_863,
    "kl_f16": 69_610_963,
    "kl_f32": 103_880_131,
    "vq_f4": 55_322_782,
    "vq_f4_noattention": 53_219_486,
    "vq_f8": 67_717_295,
    "vq_f8_n256": 67_652_783,
    "vq_f16": 69_593_371,
}

# First stages that were not released: factor and latent channels of tables 13 and 14.
IDENTITY = AutoencoderConfig(regularisation="identity", latent_channels=3)
VQ_F2 = AutoencoderConfig(regularisation="vq", multipliers=(1, 2), latent_channels=2)
VQ_F32 = AutoencoderConfig(regularisation="vq", multipliers=(1, 1, 2, 2, 4, 4), latent_channels=32)


@dataclass(frozen=True)
class Model:
    """An experiment's parameters, and what the paper says of them."""

    unet: int
    conditioners: int
    first_stage: str | AutoencoderConfig  # an experiment, or what stands for one that was not released
    millions: int | None  # printed
    source: str
    also_counted: int = 0  # what the printed number has beside U-Net and conditioners
    overrides: tuple[str, ...] = ()  # that the printed number needs


CLASSES = 1001 * 512
TEXT_OUTPUT = (1280 + 1) * PIECES  # the layer from tokens to a vocabulary in the authors' transformers, which is unused
LAYOUT_OUTPUT = (512 + 1) * 8192
LAYOUT = 54_654_976

MODELS = {
    "celebahq_ldm4": Model(274_056_163, 0, "vq_f4", 274, "table 12"),
    "ffhq_ldm4": Model(274_056_163, 0, "vq_f4", 274, "table 12"),
    "bedrooms_ldm4": Model(274_056_163, 0, "vq_f4", 274, "table 12"),
    "churches_ldm8": Model(294_966_916, 0, "kl_f8", 294, "table 12"),
    "celebahq_ldm1": Model(270_458_115, 0, IDENTITY, 270, "table 14"),
    "celebahq_ldm2": Model(264_510_722, 0, VQ_F2, 265, "table 14"),
    "celebahq_ldm8": Model(257_733_124, 0, "vq_f8", 258, "table 14"),
    "celebahq_ldm16": Model(257_751_560, 0, "vq_f16", 260, "table 14"),
    "celebahq_ldm32": Model(257_862_176, 0, VQ_F32, 258, "table 14"),
    "imagenet_ldm1": Model(396_835_971, CLASSES, IDENTITY, 396, "table 13"),
    "imagenet_ldm2": Model(390_888_578, CLASSES, VQ_F2, 391, "table 13"),
    "imagenet_ldm4": Model(400_920_579, CLASSES, "vq_f4", 400, "table 10; tables 13 and 15 print 391 and 395"),
    "imagenet_ldm8": Model(394_984_196, CLASSES, "vq_f8", 395, "table 13"),
    "imagenet_ldm16": Model(395_002_632, CLASSES, "vq_f16", 395, "table 13"),
    "imagenet_ldm32": Model(395_113_248, CLASSES, VQ_F32, 395, "table 13"),
    "text_ldm8": Model(872_300_484, 542_895_360, "kl_f8", 1450, "table 15", TEXT_OUTPUT),
    "text_ldm4": Model(403_623_939, 166_590_080, "vq_f4", None, "in no table"),
    "layout_openimages_ldm4": Model(246_277_379, LAYOUT, "vq_f4", 306, "table 15", LAYOUT_OUTPUT),
    "layout_coco_ldm8": Model(
        312_241_540, LAYOUT, "vq_f8", 345, "table 15", LAYOUT_OUTPUT, ("model.conditioners.layout.depth=8",)
    ),
    "semantic_ldm4": Model(215_229_315, 182 * 3, "vq_f4", 215, "table 15"),
    "superresolution_ldm4": Model(113_622_563, 0, "vq_f4", 169, "table 15", AUTOENCODERS["vq_f4"]),
    "inpainting_ldm4": Model(215_230_467, 0, "vq_f4", 215, "table 15"),
    "inpainting_ldm4_big": Model(387_245_827, 0, "vq_f4_noattention", 387, "section 4.5"),
}

# Key lists of released checkpoints, and the experiments of their two stages.
RELEASED = {
    "celebahq-ldm-vq-4": ("celebahq_ldm4", "vq_f4"),
    "cin256-v2": ("imagenet_ldm4", "vq_f4"),
    "lsun_churches-ldm-kl-8": ("churches_ldm8", "kl_f8"),
    "txt2img-1p4B": ("text_ldm8", "kl_f8"),
}
LISTS = Path(__file__).parents[5] / "shared" / "goldens" / "released_layouts"


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A tokenizer with as many pieces as that of bert-base-uncased."""
    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join([*special, *(f"piece{i}" for i in range(PIECES - len(special)))]))
    return dict(read_assets(path))


@cache
def diffusion(name: str, *overrides: str) -> DiffusionExperiment:
    needed = ["data.root=somewhere", "autoencoder=somewhere"]
    if name.startswith("text"):
        needed.append("model.conditioners.caption.tokenizer=vocab.txt")
    config = compose.load(name, [*needed, *overrides])
    assert isinstance(config, DiffusionExperiment)
    return config


@cache
def autoencoder(name: str) -> AutoencoderExperiment:
    config = compose.load(name, ["data.root=somewhere"])
    assert isinstance(config, AutoencoderExperiment)
    return config


def first_stage(model: Model) -> AutoencoderConfig:
    return autoencoder(model.first_stage).model if isinstance(model.first_stage, str) else model.first_stage


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conditioner_size(condition: Condition, assets: Mapping[str, bytes]) -> int:
    """Parameters of what a condition of an experiment becomes."""
    if isinstance(condition, LayoutCondition):
        condition = replace(condition, classes=600)  # those of the set: classes are words of a given vocabulary
    config, files = to_plain(condition), None
    if isinstance(condition, TextCondition):
        del config["tokenizer"], config["vocabulary"]
        files = assets
    with torch.device("meta"):
        return size(conditioners.build(config, files))


def sizes(config: DiffusionExperiment, assets: Mapping[str, bytes]) -> tuple[int, int]:
    """Parameters of the U-Net and of the conditioners."""
    with torch.device("meta"):
        unet = UNet(config.model.unet)
    return size(unet), sum(conditioner_size(one, assets) for one in config.model.conditioners.values())


@pytest.mark.parametrize("name", MODELS)
def test_diffusion_models_have_the_printed_size(name: str, assets: dict[str, bytes]) -> None:
    model = MODELS[name]
    counted = sizes(diffusion(name), assets)
    assert counted == (model.unet, model.conditioners)
    if model.overrides:
        counted = sizes(diffusion(name, *model.overrides), assets)
    if model.millions is not None:
        assert (sum(counted) + model.also_counted) / MILLION == pytest.approx(model.millions, rel=0.01), model.source


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoders_have_their_size(name: str) -> None:
    with torch.device("meta"):
        assert size(Autoencoder(autoencoder(name).model)) == AUTOENCODERS[name]


@pytest.mark.parametrize("released", RELEASED)
def test_sizes_are_those_of_the_released_weights(released: str) -> None:
    path = LISTS / f"{released}.keys.json.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent: key lists of the authors' checkpoints are not part of the project")
    shapes = json.loads(gzip.decompress(path.read_bytes()))

    def theirs(prefix: str) -> int:
        kept = [shape for key, shape in shapes.items() if key.startswith(prefix) and "to_logits" not in key]
        return sum(torch.Size(shape).numel() for shape in kept)

    name, first = RELEASED[released]
    ours = (MODELS[name].unet, MODELS[name].conditioners, AUTOENCODERS[first])
    assert ours == (theirs("model.diffusion_model."), theirs("cond_stage_model."), theirs("first_stage_model."))


@pytest.mark.parametrize("name", [*MODELS, *AUTOENCODERS])
def test_a_file_says_its_size(name: str) -> None:
    total = MODELS[name].unet + MODELS[name].conditioners if name in MODELS else AUTOENCODERS[name]
    size = f"{total / 10**9:.3f}B" if total > 10**9 else f"{round(total / MILLION)}M"
    assert f" {size} parameters" in file(name).read_text()


@pytest.mark.parametrize("name", MODELS)
def test_the_two_stages_and_the_conditions_fit(name: str) -> None:
    config, first = diffusion(name), first_stage(MODELS[name])
    unet, side = config.model.unet, config.data.crop or config.data.image_size
    assert side % first.factor == 0
    assert side // first.factor % 2 ** (len(unet.multipliers) - 1) == 0
    concatenated, tokens = 0, []
    for condition in config.model.conditioners.values():
        match condition:
            case ClassCondition() | TextCondition() | LayoutCondition():
                tokens.append(condition.width)
            case SemanticMapCondition():
                assert 2**condition.stages == first.factor
                concatenated += condition.channels
            case LowResolutionCondition():
                assert config.data.degradation.scale == first.factor  # as large as the latent
                concatenated += condition.channels
            case MaskedImageCondition():
                assert condition.factor == first.factor
                concatenated += first.latent_channels + 1
    assert (unet.in_channels, unet.out_channels) == (first.latent_channels + concatenated, first.latent_channels)
    assert set(tokens) == {unet.context_width} - {None}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoders_see_crops_of_256(name: str) -> None:
    config = autoencoder(name)
    assert config.data.crop == 256
    assert f"f = {config.model.factor}," in file(name).read_text()


@pytest.mark.parametrize("name", [*MODELS, *AUTOENCODERS])
def test_no_field_says_what_would_be_so_without_it(name: str) -> None:
    content = OmegaConf.load(file(name))
    assert isinstance(content, DictConfig)
    del content["defaults"]
    recipe = "diffusion" if name in MODELS else "autoencoder"
    config = OmegaConf.merge(without_experiment(recipe), content)
    for key, written in leaves(OmegaConf.to_container(content)):
        if not key.startswith("model.conditioners."):
            OmegaConf.update(config, key, otherwise(recipe)[key])  # perhaps an interpolation of other fields
            assert OmegaConf.select(config, key) != written, key
            OmegaConf.update(config, key, written)
    for field, written in content.get("model", {}).get("conditioners", {}).items():
        condition = diffusion(name).model.conditioners[field]
        defaults = {one.name: one.default for one in fields(condition) if one.default is not MISSING}
        given = {key: value for key, value in asdict(condition).items() if key in written and key in defaults}
        assert not {key for key, value in given.items() if defaults[key] == value}


def test_losses_are_those_of_the_released_files() -> None:
    absolute = {name for name in MODELS if diffusion(name).loss.norm == "l1"}
    assert absolute == {
        "churches_ldm8", "inpainting_ldm4", "inpainting_ldm4_big", "layout_openimages_ldm4", "semantic_ldm4",
    }  # fmt: skip
    two_layers = {name for name in AUTOENCODERS if autoencoder(name).loss.adversarial_layers == 2}
    assert two_layers == {"vq_f8", "vq_f16"}


def file(name: str) -> Path:
    return compose.CONFIGS / "experiment" / f"{name}.yaml"


@cache
def without_experiment(recipe: str) -> DictConfig:
    config = compose.compose_fields(["data=images", f"recipe={recipe}", "name=none", "data.root=somewhere"])
    OmegaConf.set_struct(config, False)  # conditioners are named by the files
    return config


@cache
def otherwise(recipe: str) -> dict[str, Any]:
    """Every field of the recipe as its file has it."""
    return dict(leaves(OmegaConf.to_container(without_experiment(recipe))))


def leaves(content: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values."""
    if not isinstance(content, dict):
        return [(prefix, content)]
    dot = "." if prefix else ""
    return [leaf for key, value in content.items() for leaf in leaves(value, f"{prefix}{dot}{key}")]
