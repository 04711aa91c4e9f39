"""The pictures of a run: what was asked for, samples of it, and the images it is of, in columns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.support.every_condition import COUNT, LATENT, SIDE, model_of, written
from training.data.conditions import Requests
from training.data.image_set import ImageSet
from training.model.autoencoder import Autoencoder
from training.model.pixels import to_bytes
from training.previews import contact_sheet, samples
from training.previews.samples import PreviewRequests

CELL = contact_sheet.LEAST_SIDE + contact_sheet.GAP
FOOT = contact_sheet.LINES * (contact_sheet.FONT_SIZE + 2)
REQUESTS = Requests({}, scale=2, masks="wide", objects=2)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "STEPS", 2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return written(tmp_path_factory.mktemp("images"))


def asked_for(images: ImageSet, *kinds: str, **options: Any) -> PreviewRequests:
    return samples.preview_requests(images, replace(REQUESTS, types={kind: kind for kind in kinds}, **options))


def size(columns: int, rows: int, foot: int = 0) -> tuple[int, ...]:
    return (rows * CELL + contact_sheet.GAP + foot, columns * CELL + contact_sheet.GAP, 1)


def cell(drawn: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    """One image of a sheet, in its own size."""
    top, left, scale = (
        contact_sheet.GAP + row * CELL,
        contact_sheet.GAP + column * CELL,
        contact_sheet.LEAST_SIDE // SIDE,
    )
    return drawn[top : top + contact_sheet.LEAST_SIDE : scale, left : left + contact_sheet.LEAST_SIDE : scale]


# -- samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "columns", "rows", "foot"),
    [
        ((), samples.COLUMNS, 4, 0),
        (("class",), 3, 4, FOOT),
        (("text",), 6, 4 + 1, FOOT),  # the originals below
        (("semantic_map",), 6, 1 + 2 + 1, 0),  # what was asked for above
        (("layout",), 6, 1 + 2 + 1, 0),
        (("layout_map",), 6, 1 + 2 + 1, 0),
        (("low_resolution",), 6, 1 + 2 + 1, 0),
        (("masked_image",), 6, 1 + 2 + 1, 0),
        (("class", "semantic_map"), 6, 1 + 2 + 1, FOOT),
    ],
)
def test_samples_are_in_columns_of_what_was_asked_for(
    kinds: tuple[str, ...], columns: int, rows: int, foot: int, images: ImageSet, autoencoder: Autoencoder,
    tmp_path: Path,
) -> None:  # fmt: skip
    what = asked_for(images, *kinds)
    found = samples.draw_samples(model_of(autoencoder, *kinds), what, LATENT, tmp_path / "step", guidance=2.0)
    assert found["samples"].shape == size(columns, rows, foot)
    assert found["denoising"].shape == size(samples.ESTIMATES, 4)
    for name, drawn in found.items():
        with Image.open(tmp_path / f"step-{name}.png") as picture:
            assert np.array_equal(np.asarray(picture), drawn[..., 0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-denoising.png", "step-samples.png"]


def test_samples_are_the_same_every_time(images: ImageSet, autoencoder: Autoencoder, tmp_path: Path) -> None:
    model, what = model_of(autoencoder, "text"), asked_for(images, "text")
    one, two = (samples.draw_samples(model, what, LATENT, tmp_path / name, guidance=1.0) for name in "ab")
    assert np.array_equal(one["samples"], two["samples"])
    assert not np.array_equal(cell(one["samples"], 0, 0), cell(one["samples"], 1, 0))


def test_what_was_asked_for_is_above_and_the_originals_are_below(
    images: ImageSet, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    what = asked_for(images, "low_resolution")
    drawn = samples.draw_samples(model_of(autoencoder, "low_resolution"), what, LATENT, tmp_path / "x", guidance=1.0)
    assert what.conditions is not None
    asked = to_bytes(what.conditions)
    for column in range(6):
        assert np.array_equal(cell(drawn["samples"], 0, column), asked[column])
        assert np.array_equal(cell(drawn["samples"], 3, column), images.images[10 + column])


# -- what is asked for -----------------------------------------------------------------------------


def test_held_out_images_are_shown_or_training_ones_evenly_spread(images: ImageSet, tmp_path: Path) -> None:
    assert list(samples.preview_rows(images)) == list(range(10, 16))
    assert list(samples.preview_rows(written(tmp_path, train_count=COUNT))) == [0, 1, 3, 4, 6, 8, 9, 11, 12, 14]


def test_one_of_each_class_is_asked_for_where_that_is_all(images: ImageSet) -> None:
    what = asked_for(images, "class")
    assert what.requests == [{"class": 0}, {"class": 1}, {"class": 2}]
    assert (what.captions, what.conditions, what.originals) == (["ein Hund", "犬", "c"], None, None)


def test_requests_are_those_of_held_out_images(images: ImageSet) -> None:
    what = asked_for(images, "text", "class")
    assert [one["text"] for one in what.requests] == [f"picture {row}" for row in range(10, 16)]
    assert list(what.captions)[:2] == ["picture 10, 犬", "picture 11, c"]
    assert what.conditions is None
    assert what.originals is not None
    assert torch.equal(what.originals, images.pixels(range(10, 16)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["semantic_map", "layout", "low_resolution", "masked_image"])
def test_conditions_that_can_be_seen_are_shown(kind: str, channels: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, channels), dtype=np.uint8)
    what = asked_for(written(tmp_path, images=pixels), kind)
    assert what.conditions is not None
    assert what.conditions.shape == (6, channels, SIDE, SIDE)
    drawn = to_bytes(what.conditions)
    for one, request, original in zip(drawn, what.requests, pixels[10:], strict=True):
        value = request[kind]
        if kind == "semantic_map":
            colours = {label: {tuple(pixel) for pixel in one[value == label].tolist()} for label in np.unique(value)}
            assert all(len(colour) == 1 for colour in colours.values())
            assert len(set.union(*colours.values())) == len(colours)
        elif kind == "layout":
            edges = one.any(axis=2)
            assert edges[0, 4:12].all()
            assert edges[:, 4].any()
            assert not edges[:, :3].any()
            assert not edges[:, 13:].any()
        elif kind == "low_resolution":
            assert np.array_equal(one[::2, ::2], value)
        else:
            assert (one[value["mask"]] == 127).all()
            assert np.array_equal(one[~value["mask"]], original[~value["mask"]])


@pytest.mark.parametrize("lacking", [10, 12])
def test_an_image_without_its_condition_keeps_its_column(
    lacking: int, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    records = [
        {"name": str(row), **({} if row == lacking else {"boxes": [{"class": 0, "box": [0.0, 0.0, 1.0, 1.0]}]})}
        for row in range(COUNT)
    ]
    images = written(tmp_path / "set", records=records)
    drawn = samples.draw_samples(
        model_of(autoencoder, "layout"), asked_for(images, "layout"), LATENT, tmp_path / "x", guidance=1.0
    )
    assert drawn["samples"].shape == size(6, 4)
    assert np.array_equal(cell(drawn["samples"], 3, 5), images.images[15])


# -- sheets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("words", ["a", "日本の犬 läuft", "more words than there is room for " * 9, "x" * 999])
def test_captions_change_the_foot_only(words: str, channels: int) -> None:
    images = torch.rand(6, channels, SIDE, SIDE) * 2 - 1
    bare = contact_sheet.draw(images, columns=3)
    captioned = contact_sheet.draw(images, columns=3, captions=["", words, ""])
    assert bare.shape == (*size(3, 2)[:2], channels)
    assert captioned.shape == (*size(3, 2, FOOT)[:2], channels)
    assert np.array_equal(captioned[: len(bare)], bare)
    foot = captioned[len(bare) :]
    assert foot[:, CELL:].min() < 128
    assert (foot[:, : contact_sheet.GAP + contact_sheet.LEAST_SIDE] == 255).all()  # that of the first column is empty
    assert (contact_sheet.draw(images, columns=3, captions=["", "", ""])[len(bare) :] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_names_of_rows_are_left_of_the_rows_and_change_nothing_else(channels: int) -> None:
    images = torch.rand(6, channels, SIDE, SIDE) * 2 - 1
    bare = contact_sheet.draw(images, columns=2, captions=["a", "b"])
    named = contact_sheet.draw(images, columns=2, captions=["a", "b"], rows=["boot", "", "x" * 999])
    left = named.shape[1] - bare.shape[1]
    assert 0 < left <= contact_sheet.MOST_NAME
    assert np.array_equal(named[:, left:], bare)
    dark = [named[row * CELL : (row + 1) * CELL, :left].min() < 128 for row in range(3)]
    assert dark == [True, False, True]


def test_a_long_word_stays_in_its_column() -> None:
    images = torch.zeros(2, 1, SIDE, SIDE)
    drawn = contact_sheet.draw(images, columns=2, captions=["Donaudampfschifffahrtsgesellschaft", ""])
    assert (drawn[-FOOT:, contact_sheet.GAP + CELL :] == 255).all()


def test_large_images_are_not_enlarged_and_a_last_row_may_be_short(tmp_path: Path) -> None:
    images = torch.rand(5, 3, 40, 100) * 2 - 1
    drawn = contact_sheet.save(tmp_path / "sheet.png", images, columns=3)
    assert drawn.shape == (2 * 42 + 2, 3 * 102 + 2, 3)
    assert np.array_equal(drawn[2:42, 2:102], to_bytes(images)[0])
    assert (drawn[44:84, 206:] == 255).all()
    with Image.open(tmp_path / "sheet.png") as picture:
        assert np.array_equal(np.asarray(picture), drawn)


def test_reconstructions_are_below_their_images(images: ImageSet, autoencoder: Autoencoder, tmp_path: Path) -> None:
    autoencoder.train()
    found = samples.draw_reconstructions(autoencoder, images, tmp_path / "step")
    assert autoencoder.training  # as it was
    drawn = found["reconstructions"]
    assert drawn.shape == size(6, 2)
    assert np.array_equal(cell(drawn, 0, 2), images.images[12])
    with torch.inference_mode():
        shown = images.pixels([12])
        decoded = to_bytes(autoencoder.eval().decode(autoencoder.encode(shown)))[0]
    assert np.abs(cell(drawn, 1, 2).astype(int) - decoded).max() <= 1
    with Image.open(tmp_path / "step-reconstructions.png") as picture:
        assert np.array_equal(np.asarray(picture), drawn[..., 0])


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")  # see `test_rows`
def test_a_run_on_crops_has_pictures(autoencoder: Autoencoder, tmp_path: Path) -> None:
    from training import train
    from training.model.latent_diffusion import save_autoencoder

    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 1), dtype=np.uint8)
    written(tmp_path / "set", images=pixels, maps=pixels[..., 0] // 60)
    save_autoencoder(tmp_path / "first", autoencoder, name="first", image_size=32)
    overrides = [
        f"data.root={tmp_path / 'set'}", f"autoencoder={tmp_path / 'first'}", "device=cpu", "steps=1", "batch_size=2",
        "encode_each_step=true", "data.crop=16", "model.unet.channels=32", "model.unet.multipliers=[1]",
        "model.unet.in_channels=5", "model.unet.out_channels=2", "model.unet.context_width=null",
        "~model.conditioners.class_label",
        "+model.conditioners.scene={type: semantic_map, channels: 3, stages: 1}",
    ]  # fmt: skip
    train.run("digits_diffusion", overrides, tmp_path / "run")
    with Image.open(tmp_path / "run" / "release" / "samples.png") as picture:
        assert picture.size[0] == size(6, 4)[1]
