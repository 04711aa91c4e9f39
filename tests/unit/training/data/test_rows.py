"""Rows of a set as batches: pixels, maps, masks and boxes are mirrored and cropped alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from training.data import image_set, latents
from training.data.batches import Batches, keep_batch, row_generator
from training.data.conditions import AnnotatedImage, Requests
from training.data.image_set import ImageSet
from training.data.latents import Latents
from training.data.rows import ImageRows, LatentRows, crop_boxes, read_image
from training.model import conditioners, pixels
from training.model.conditioners.conditioner import MapConditioner

COUNT, SIDE, CROP = 24, 32, 16
BOXES = [
    {"class": 0, "box": [0.0, 0.0, 0.25, 0.5]},  # the corner that is marked by map and mask
    {"class": 1, "box": [0.0, 0.0, 1.0, 1.0]},
    {"class": 2, "box": [0.5, 0.75, 1.0, 1.0]},
]
KINDS = {"label": "class", "caption": "text", "layout": "layout", "scene": "semantic_map", "inpaint": "masked_image"}
REQUESTS = Requests(KINDS, masks="given")


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Images that say where each pixel is: channels are 8 x, 8 y and the row. Its upper left corner is marked."""
    y, x, row = np.meshgrid(np.arange(SIDE), np.arange(SIDE), np.arange(COUNT), indexing="ij")
    images = np.stack([8 * x, 8 * y, row], axis=-1).transpose(2, 0, 1, 3).astype(np.uint8)
    corner = ((x < SIDE // 4) & (y < SIDE // 2)).transpose(2, 0, 1)
    records = [{"name": str(i), "label": i % 3, "text": f"picture {i}", "boxes": BOXES} for i in range(COUNT)]
    return image_set.write(
        tmp_path_factory.mktemp("marked"), name="marked", images=images, records=records, train_count=20,
        maps=np.where(corner, 200, images[..., 2]).astype(np.uint8), masks=np.where(corner, 255, 0).astype(np.uint8),
        classes=["a", "b", "c"], box_classes=["d", "e", "f"], map_classes=[str(i) for i in range(256)],
    )  # fmt: skip


def generators(seed: int, count: int) -> list[np.random.Generator]:
    return [row_generator(seed, 0, position) for position in range(count)]


def bytes_of(image: Tensor) -> NDArray[np.int64]:
    """[C, H, W] in [-1, 1] -> [H, W, C]."""
    return pixels.to_bytes(image[None])[0].astype(np.int64)


def seen(image: Tensor) -> tuple[int, bool, int, int]:
    """Which row an image is, whether it is mirrored, and the left and upper edge of its window."""
    pixels = bytes_of(image)
    xs, ys = pixels[0, :, 0] // 8, pixels[:, 0, 1] // 8
    mirrored = bool(xs[0] > xs[-1])
    xs = xs[::-1] if mirrored else xs
    assert xs.tolist() == list(range(xs[0], xs[0] + len(xs)))
    assert ys.tolist() == list(range(ys[0], ys[0] + len(ys)))
    assert (pixels[..., 2] == pixels[0, 0, 2]).all()
    return int(pixels[0, 0, 2]), mirrored, int(xs[0]), int(ys[0])


def window(plane: NDArray[np.uint8], mirrored: bool, left: int, top: int, size: int) -> NDArray[np.uint8]:
    part = plane[top : top + size, left : left + size]
    return part[:, ::-1] if mirrored else part


def by_class(request: dict[str, Any]) -> dict[int, list[float]]:
    boxes = {one["class"]: one["box"] for one in request["layout"]["boxes"]}
    assert len(boxes) == len(request["layout"]["boxes"])
    return boxes


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [None, REQUESTS])
def test_images_are_as_they_are_unless_told_otherwise(marked: ImageSet, requests: Requests | None) -> None:
    rows = np.array([5, 0, 19])
    batch = ImageRows(marked, requests=requests)(rows, generators(0, 3))
    assert set(batch) == ({"image"} if requests is None else {"image", "requests"})
    assert torch.equal(batch["image"], marked.pixels(rows))
    assert batch["image"].dtype == torch.float32
    if requests is not None:
        assert [request["caption"] for request in batch["requests"]] == ["picture 5", "picture 0", "picture 19"]
        assert [request["label"] for request in batch["requests"]] == [2, 0, 1]


def test_half_of_the_images_are_mirrored(marked: ImageSet) -> None:
    found = []
    for seed in range(10):
        images = ImageRows(marked, flip=True)(np.arange(20), generators(seed, 20))["image"]
        for row, image in enumerate(images):
            which, mirrored, left, top = seen(image)
            assert (which, left, top) == (row, 0, 0)
            found.append(mirrored)
            expected = marked.images[row][:, ::-1] if mirrored else marked.images[row]
            assert np.array_equal(bytes_of(image), expected)
    assert 70 < sum(found) < 130  # of 200


def test_a_mirrored_image_comes_with_its_map_mask_and_boxes_mirrored(marked: ImageSet) -> None:
    turned = 0
    for seed in range(5):
        batch = ImageRows(marked, flip=True, requests=REQUESTS)(np.arange(20), generators(seed, 20))
        for row, (image, request) in enumerate(zip(batch["image"], batch["requests"], strict=True)):
            _, mirrored, _, _ = seen(image)
            turned += mirrored
            assert marked.maps is not None
            assert marked.masks is not None
            assert np.array_equal(request["scene"], window(marked.maps[row], mirrored, 0, 0, SIDE))
            assert np.array_equal(request["inpaint"]["mask"], window(marked.masks[row], mirrored, 0, 0, SIDE))
            assert np.array_equal(request["inpaint"]["image"], bytes_of(image))
            corner = [0.75, 0.0, 1.0, 0.5] if mirrored else [0.0, 0.0, 0.25, 0.5]
            assert by_class(request)[0] == corner
            x0, y0, x1, y1 = (round(SIDE * value) for value in corner)
            assert (request["scene"][y0:y1, x0:x1] == 200).all()  # what the box is around
            assert (request["scene"] == 200).sum() == (x1 - x0) * (y1 - y0)
    assert 25 < turned < 75  # of 100


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_of_image_map_and_mask_alike(marked: ImageSet, flip: bool) -> None:
    places = set()
    rows = ImageRows(marked, flip=flip, crop=CROP, requests=REQUESTS)
    for seed in range(40):
        batch = rows(np.arange(20), generators(seed, 20))
        assert batch["image"].shape == (20, 3, CROP, CROP)
        for row, (image, request) in enumerate(zip(batch["image"], batch["requests"], strict=True)):
            which, mirrored, left, top = seen(image)
            assert which == row
            assert flip or not mirrored
            assert 0 <= left <= SIDE - CROP
            assert 0 <= top <= SIDE - CROP
            places.add((mirrored, left, top))
            assert marked.maps is not None
            assert marked.masks is not None
            assert np.array_equal(request["scene"], window(marked.maps[row], mirrored, left, top, CROP))
            assert np.array_equal(request["inpaint"]["mask"], window(marked.masks[row], mirrored, left, top, CROP))
    assert {left for _, left, _ in places} == {top for _, _, top in places} == set(range(SIDE - CROP + 1))
    assert {mirrored for mirrored, _, _ in places} == {False, flip}


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_of_a_crop_are_shares_of_it(marked: ImageSet, flip: bool) -> None:
    kept = {0: 0, 1: 0, 2: 0}
    rows = ImageRows(marked, flip=flip, crop=CROP, requests=REQUESTS)
    for seed in range(20):
        batch = rows(np.arange(20), generators(seed, 20))
        for image, request in zip(batch["image"], batch["requests"], strict=True):
            _, mirrored, left, top = seen(image)
            found = by_class(request)
            for one in BOXES:
                x0, y0, x1, y1 = (SIDE * value for value in one["box"])  # type: ignore[attr-defined]
                inside = [
                    np.clip((x0 - left) / CROP, 0, 1), np.clip((y0 - top) / CROP, 0, 1),
                    np.clip((x1 - left) / CROP, 0, 1), np.clip((y1 - top) / CROP, 0, 1),
                ]  # fmt: skip
                share = (inside[2] - inside[0]) * (inside[3] - inside[1]) * CROP**2 / ((x1 - x0) * (y1 - y0))
                kind = int(one["class"])  # type: ignore[call-overload]
                assert (kind in found) == (share >= 0.25)
                if kind in found:
                    kept[kind] += 1
                    expected = [1 - inside[2], inside[1], 1 - inside[0], inside[3]] if mirrored else inside
                    assert found[kind] == pytest.approx(expected)
    assert kept[1] == 400  # a quarter of the whole picture is always in sight
    assert 0 < kept[0] < 400
    assert 0 < kept[2] < 400
    assert marked.records[0]["boxes"] == BOXES


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0.5, 0.25, 0.75, 0.5], [0.5, 0.0, 1.0, 0.5]),  # shifted and enlarged
        ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]),  # clipped on all sides
        ([0.5, 0.5, 1.0, 0.75], [0.5, 0.5, 1.0, 1.0]),  # clipped to half of it
        ([0.125, 0.25, 0.625, 0.75], [0.0, 0.0, 0.75, 1.0]),
        ([0.0, 0.25, 0.375, 0.5], [0.0, 0.0, 0.25, 0.5]),  # a third in sight
        ([0.6875, 0.25, 0.9375, 0.5], [0.875, 0.0, 1.0, 0.5]),  # a quarter
        ([0.7, 0.25, 1.0, 0.5], None),  # less
        ([0.75, 0.25, 1.0, 0.5], None),  # it touches the edge
        ([0.0, 0.0, 0.1, 0.1], None),
        ([0.8, 0.8, 1.0, 1.0], None),
    ],
)
def test_a_box_is_clipped_and_left_out_where_less_than_a_quarter_is_seen(
    box: list[float], expected: list[float] | None
) -> None:
    one = {"class": 3, "box": box, "group": True}
    found = crop_boxes([one], left=0.25, top=0.25, share=0.5)
    assert found == ([] if expected is None else [{"class": 3, "box": pytest.approx(expected), "group": True}])
    assert one["box"] is box


def test_crops_need_no_boxes_and_may_lose_them_all(tmp_path: Path) -> None:
    images = np.zeros((2, SIDE, SIDE, 1), np.uint8)
    corner = {"class": 0, "box": [0.0, 0.0, 0.25, 0.25]}
    found = image_set.write(
        tmp_path, name="two", images=images, records=[{"name": "a"}, {"name": "b", "boxes": [corner]}], train_count=2
    )
    rows = ImageRows(found, crop=CROP, requests=Requests({"layout": "layout"}))
    answers = [rows(np.arange(2), generators(seed, 2))["requests"] for seed in range(80)]
    assert all(first == {"layout": None} for first, _ in answers)
    assert {len(second["layout"]["boxes"]) for _, second in answers} == {0, 1}


def test_a_crop_as_large_as_the_image_is_the_image(marked: ImageSet) -> None:
    rows = np.arange(4)
    assert torch.equal(ImageRows(marked, crop=SIDE)(rows, generators(0, 4))["image"], marked.pixels(rows))


def test_a_row_does_not_depend_on_its_companions(marked: ImageSet) -> None:
    rows = ImageRows(marked, flip=True, crop=CROP, requests=Requests({**KINDS, "small": "low_resolution"}))
    together = rows(np.array([3, 7, 11]), generators(0, 3))
    alone = rows(np.array([7]), generators(0, 3)[1:2])
    assert torch.equal(together["image"][1], alone["image"][0])
    assert same(together["requests"][1], alone["requests"][0])


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(one == other)


ALL_KINDS = {**KINDS, "title": "frozen_text", "small": "low_resolution"}


def test_equal_states_of_the_generators_give_equal_batches(marked: ImageSet) -> None:
    rows = ImageRows(marked, flip=True, crop=CROP, requests=Requests(ALL_KINDS, "bsr_light", 2))
    batches = [Batches(rows, count=20, batch_size=6, seed=seed, steps=9)[4] for seed in (0, 0, 1)]
    assert torch.equal(batches[0]["image"], batches[1]["image"])
    assert all(same(*pair) for pair in zip(batches[0]["requests"], batches[1]["requests"], strict=True))
    assert not torch.equal(batches[0]["image"], batches[2]["image"])


# -- latents ---------------------------------------------------------------------------------------


def encoded(images: ImageSet, folder: Path, flips: int) -> Latents:
    """Latents that are the small images, and the mirrored ones."""
    pixels = torch.nn.functional.avg_pool2d(images.pixels(images.rows("train")), 4)
    views = torch.stack([pixels, pixels.flip(-1)][:flips], dim=1)
    return latents.write(folder, [(views, views + 5)], count=20, data_fingerprint="d", autoencoder="a")


def test_mirrored_moments_come_with_mirrored_maps_and_boxes(marked: ImageSet, tmp_path: Path) -> None:
    rows = LatentRows(encoded(marked, tmp_path, 2), marked, requests=REQUESTS)
    pixels = torch.nn.functional.avg_pool2d(marked.pixels(range(20)), 4)
    turned = []
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(20)
        batch = rows(order, generators(seed, 20))
        assert batch["moments"].shape == (20, 2, 3, 8, 8)
        for row, moments, request in zip(order, batch["moments"], batch["requests"], strict=True):
            mirrored = not torch.equal(moments[0], pixels[row])
            turned.append(mirrored)
            assert torch.equal(moments[0], pixels[row].flip(-1) if mirrored else pixels[row])
            assert torch.equal(moments[1], moments[0] + 5)
            assert marked.maps is not None
            assert marked.masks is not None
            assert np.array_equal(request["scene"], window(marked.maps[row], mirrored, 0, 0, SIDE))
            assert np.array_equal(request["inpaint"]["mask"], window(marked.masks[row], mirrored, 0, 0, SIDE))
            assert np.array_equal(request["inpaint"]["image"], window(marked.images[row], mirrored, 0, 0, SIDE))
            assert by_class(request)[0] == ([0.75, 0.0, 1.0, 0.5] if mirrored else [0.0, 0.0, 0.25, 0.5])
            assert (request["label"], request["caption"]) == (row % 3, f"picture {row}")
    assert 70 < sum(turned) < 130  # of 200


def test_latents_without_mirrored_ones_are_never_mirrored(marked: ImageSet, tmp_path: Path) -> None:
    found = encoded(marked, tmp_path, 1)
    rows = LatentRows(found, marked, requests=REQUESTS)
    for seed in range(5):
        batch = rows(np.arange(20), generators(seed, 20))
        assert torch.equal(batch["moments"], found.moments[:, 0])
        assert all(by_class(request)[0] == [0.0, 0.0, 0.25, 0.5] for request in batch["requests"])


def test_batches_of_latents_do_not_write_to_them(marked: ImageSet, tmp_path: Path) -> None:
    rows = LatentRows(encoded(marked, tmp_path, 2), marked, requests=Requests({}))
    before = rows(np.arange(4), generators(0, 4))
    assert before["requests"] == [{}] * 4
    kept = before["moments"].clone()
    before["moments"].fill_(7)
    assert torch.equal(rows(np.arange(4), generators(0, 4))["moments"], kept)


# -- the memory map --------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("part", [(slice(None), slice(None)), (slice(3, 19), slice(9, 25))])
def test_a_picture_is_a_view_of_the_memory_map(marked: ImageSet, flip: bool, part: tuple[slice, slice]) -> None:
    found: AnnotatedImage = read_image(marked, 7, marked.records[7], flip, part)
    for view, array in ((found.pixels, marked.images), (found.map, marked.maps), (found.mask, marked.masks)):
        assert view is not None
        assert array is not None
        assert np.shares_memory(view, array)
    assert found.mirrored == flip
    assert found.pixels.shape[:2] == (SIDE, SIDE) if part[0] == slice(None) else (CROP, CROP)


def test_a_request_of_maps_and_masks_copies_nothing(marked: ImageSet) -> None:
    (request,) = ImageRows(marked, flip=True, crop=CROP, requests=REQUESTS)(np.array([3]), generators(0, 1))["requests"]
    assert np.shares_memory(request["scene"], marked.maps)
    assert np.shares_memory(request["inpaint"]["image"], marked.images)
    assert np.shares_memory(request["inpaint"]["mask"], marked.masks)


@pytest.mark.parametrize(
    ("config", "flip"),
    [
        ({"type": "semantic_map", "classes": 256, "channels": 2, "stages": 2}, False),
        ({"type": "semantic_map", "classes": 256, "channels": 2, "stages": 2}, True),
        ({"type": "masked_image", "channels": 3, "factor": 4}, False),
        ({"type": "masked_image", "channels": 3, "factor": 4}, True),
        ({"type": "low_resolution", "channels": 3}, False),
        ({"type": "low_resolution", "channels": 3}, True),
    ],
)
def test_conditioners_read_views_of_a_read_only_map(
    marked: ImageSet, config: dict[str, Any], flip: bool, tmp_path: Path
) -> None:
    conditioner = conditioners.build(config)
    assert isinstance(conditioner, MapConditioner)
    requests = Requests({"field": config["type"]}, masks="given")
    of_latents = LatentRows(encoded(marked, tmp_path, 1 + flip), marked, requests=requests)
    for rows in (ImageRows(marked, flip=flip, requests=requests), of_latents):
        found = [one["field"] for one in rows(np.arange(8), generators(0, 8))["requests"]]
        maps = conditioner.embed(found, (8, 8), lambda images: images[:, :2, ::4, ::4])
        assert maps.shape[::2] == (8, 8)
        assert maps.isfinite().all()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        {"type": "semantic_map", "classes": 256, "channels": 2, "stages": 2},
        {"type": "masked_image", "channels": 3, "factor": 4},
        {"type": "low_resolution", "channels": 3},
    ],
)
def test_conditioners_read_what_a_loader_lets_through(marked: ImageSet, config: dict[str, Any], flip: bool) -> None:
    rows = ImageRows(marked, flip=flip, requests=Requests({"field": config["type"]}))
    batches = Batches(rows, count=20, batch_size=10, seed=0, steps=2)
    conditioner = conditioners.build(config)
    assert isinstance(conditioner, MapConditioner)
    for batch in DataLoader(batches, batch_size=None, sampler=range(2), collate_fn=keep_batch):
        conditioner.embed([one["field"] for one in batch["requests"]], (8, 8), lambda images: images[:, :2, ::4, ::4])
