"""What does not fit the image set, the first stage or the U-Net is refused, and its field is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.conditioned import CONDITIONS, COUNT, FIRST_STAGE, Configured, refused, written
from training.data.image_set import ImageSet
from training.experiments import conditioners
from training.experiments.conditions import ClassCondition
from training.experiments.schema import DegradationConfig

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
