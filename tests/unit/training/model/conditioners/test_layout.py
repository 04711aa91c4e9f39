"""Layouts as tokens of a grid, and as maps of painted boxes."""

from typing import Any

import numpy as np
import torch

from tests.support.conditioners import encode_images
from training.model.conditioners.layout import LayoutConditioner
from training.model.conditioners.layout_map import LayoutMapConditioner


def test_layout_tokens_are_those_of_the_released_model() -> None:
    """By hand: vocabulary 8192 has a grid of 90 x 90 points; token = round(89 y) * 90 + round(89 x); none is 8191."""
    conditioner = LayoutConditioner(classes=601, width=8, depth=1, crops=True, groups=True)
    boxes = [
        {"class": 7, "box": [0.0, 0.0, 1.0, 1.0]},  # corners 0 and 89 * 90 + 89
        {"class": 600, "box": [0.1, 0.2, 0.5, 0.25], "group": True},  # 18 * 90 + 9; 22 * 90 + 44 (44.5 to even)
    ]
    ids = conditioner.read({"boxes": boxes, "crop": [0.25, 0, 0.75, 1]})
    assert len(ids) == conditioner.transformer.length == 92
    assert ids[:6] == [7, 0, 8099, 1201, 1629, 2024]
    assert ids[6:90] == [8191] * 84
    assert ids[90:] == [22, 8077]  # 22.25; 89 * 90 + 67 (66.75)
    assert conditioner.read(conditioner.null) == [8191] * 90 + [0, 8099]


def test_the_grid_of_sixteen_tokens_is_that_of_the_authors_example() -> None:
    conditioner = LayoutConditioner(classes=4, width=8, depth=1, objects=1, vocabulary=16)
    assert conditioner.read({"boxes": [{"class": 2, "box": [2 / 3, 1 / 3, 1, 1]}]}) == [2, 6, 15]


def test_boxes_are_painted_by_their_share_of_each_cell() -> None:
    """Against counting the points of a fine grid that lie in each box."""
    torch.manual_seed(0)
    conditioner = LayoutMapConditioner(classes=3, channels=4, objects=5)
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((3, 2, 2)), axis=1)  # [objects, low and high, x and y]
    asked: list[dict[str, Any]] = [
        {"class": i % 2, "box": [float(v) for v in corners[i].reshape(-1)]} for i in range(3)
    ]
    found = conditioner.embed([{"boxes": asked}, None, {"boxes": asked[:1]}], (4, 6), encode_images).detach()
    fine = 200
    x, y = ((np.arange(n * fine) + 0.5) / (n * fine) for n in (6, 4))
    wanted = torch.zeros(4, 4, 6)
    for i, one in enumerate(asked):
        x0, y0, x1, y1 = one["box"]
        inside = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))
        share = torch.from_numpy(inside.reshape(4, fine, 6, fine).mean((1, 3))).float()
        wanted += share * conditioner.vectors.weight[i % 2].detach()[:, None, None]
    torch.testing.assert_close(found[0], wanted, rtol=0, atol=0.01)
    assert not found[1].any()
    assert torch.equal(found[2], conditioner.embed([{"boxes": asked[:1]}], (4, 6), encode_images)[0].detach())
    (whole,) = conditioner.embed([{"boxes": [{"class": 2, "box": [0, 0, 1, 1]}]}], (4, 6), encode_images)
    assert torch.equal(whole, conditioner.vectors.weight[2][:, None, None].expand(4, 4, 6))
