"""Values and configurations that are refused, with what is permitted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.conditioners import build_conditioner, embed
from training.model.conditioners.text_tokenizer import read_assets


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("class", -1, "-1 is not allowed; permitted: an integer from 0 to 2"),
        ("class", 0.5, "0.5 is not allowed"),
        ("token_ids", [1, 10], "token id 10 is not allowed; permitted: an integer from 0 to 9"),
        ("token_ids", [1] * 7, "7 token ids are too many; permitted: at most 6"),
        ("token_ids", "cat", "'cat' is not allowed; permitted: a list of integers from 0 to 9"),
        ("text", 5, "int 5 is not allowed; permitted: a string of at most 2000 characters"),
        ("text", "a" * 2001, "a text of 2001 characters is not allowed"),
        ("frozen_text", ["a"], "is not allowed; permitted: a string"),
        ("layout", [], "is not a layout"),
        ("layout", {"boxes": [{"class": 4, "box": [0, 0, 1, 1]}]}, "class 4 is not allowed; permitted: .* 0 to 3"),
        ("layout", {"boxes": [{"class": 0, "box": [0, 0, 1, 1.1]}]}, "box .* is not allowed; permitted: .* 0 to 1"),
        ("layout", {"boxes": [{"class": 0, "box": [0.5, 0, 0.2, 1]}]}, "with x0 < x1 and y0 < y1"),
        ("layout", {"boxes": [{"class": 0, "box": [0, 0, 1]}]}, "box .* is not allowed"),
        ("layout", {"boxes": [{"class": 0, "box": [0, 0, 1, 1]}] * 4}, "4 boxes are too many; permitted: at most 3"),
        (
            "layout",
            {"boxes": [{"class": 0, "box": [0, 0, 1, 1], "group": True}]},
            "group: this model does not know groups",
        ),
        ("layout", {"boxes": [], "crop": [0, 0, 1]}, "box .* is not allowed"),
        ("layout_map", {}, "is not a layout"),
        (
            "layout_map",
            {"boxes": [{"class": -1, "box": [0, 0, 1, 1]}]},
            "class -1 is not allowed; permitted: .* 0 to 3",
        ),
        ("layout_map", {"boxes": [{"class": 0, "box": [0, 0.5, 1, 0.5]}]}, "with x0 < x1 and y0 < y1"),
        (
            "layout_map",
            {"boxes": [{"class": 0, "box": [0, 0, 1, 1]}] * 4},
            "4 boxes are too many; permitted: at most 3",
        ),
        (
            "layout_map",
            {"boxes": [{"class": 0, "box": [0, 0, 1, 1], "group": True}]},
            "group: this model does not know groups",
        ),
        ("layout_map", {"boxes": [], "crop": [0, 0, 1, 1]}, "crop: this model does not know crops"),
        ("semantic_map", np.full((8, 12), -1), "label -1 is not allowed; permitted: an integer from 0 to 4"),
        ("semantic_map", np.zeros((8, 12)), r"float64 \(8, 12\) are not labels; permitted: integers"),
        ("semantic_map", "map", "str is not an array of numbers"),
        ("semantic_map", np.zeros((8, 8), int), "a map of 8x8 does not fit a latent of 4x6; permitted: 8x12"),
        ("low_resolution", torch.zeros(1, 4, 6), r"float32 \(1, 4, 6\) does not have 3 channels"),
        ("low_resolution", np.zeros((4, 6), np.uint8), "does not have 3 channels"),
        ("low_resolution", torch.full((3, 4, 6), 2.0), "an image with values from 2 to 2 .* permitted: -1 to 1"),
        ("low_resolution", torch.full((3, 4, 6), torch.nan), "an image with values from nan"),
        ("low_resolution", np.zeros((4, 6, 3)), "is not an image; permitted: a float tensor"),
        ("masked_image", torch.zeros(3, 8, 12), "is not a masked image"),
        ("masked_image", {"image": torch.zeros(1, 8, 12), "mask": np.ones((8, 12), bool)}, "image: .* 3 channels"),
        ("masked_image", {"image": torch.zeros(3, 8, 12), "mask": np.ones((8, 8), bool)}, "mask: 8x8 .* 8x12, as"),
        ("masked_image", {"image": torch.zeros(3, 8, 12), "mask": torch.full((8, 12), 2.0)}, "mask: .* 0 to 1"),
        ("masked_image", {"image": torch.zeros(3, 8, 8), "mask": np.ones((8, 8), bool)}, "8x8 .* permitted: 8x12"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_permitted(
    kind: str, value: Any, message: str, assets: dict[str, bytes]
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        embed(build_conditioner(kind, assets), [None, value])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("class", {"entry": "concat"}, "entry: 'concat' is not allowed; permitted: 'cross_attention'"),
        ("class", {"null": 3}, "null: 3 is not allowed; permitted: an integer from 0 to 2"),
        ("token_ids", {"padding": 10}, "padding: 10 is not allowed"),
        ("layout", {"classes": 16}, "classes: 16 is not allowed; permitted: from 1 to 15"),
        ("semantic_map", {"method": "magic"}, "method: 'magic' is not known; permitted: nearest, bilinear"),
        ("low_resolution", {"method": "magic"}, "method: 'magic' is not known; permitted: bilinear, bicubic"),
        ("text", {"length": 2}, "length: 2 is not allowed; permitted: at least 3"),
        ("frozen_text", {"length": 17}, "length: 17 is not allowed; permitted: at most 16"),
        ("frozen_text", {"padding": "<pad>"}, "padding: '<pad>' is not a token of tokenizer.json"),
        ("frozen_text", {"encoder": {"model_type": "smell"}}, "encoder: cannot be built"),
    ],
)
def test_a_bad_configuration_is_refused_by_argument(
    kind: str, changes: dict[str, Any], message: str, assets: dict[str, bytes]
) -> None:
    with pytest.raises(ValueError, match=message):
        build_conditioner(kind, assets, **changes)


def test_text_needs_its_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"assets: tokenizer\.json is missing"):
        build_conditioner("text", {})
    with pytest.raises(ValueError, match=r"tokenizer\.json: cannot be read"):
        build_conditioner("text", {"tokenizer.json": b"[]"})
    (tmp_path / "vocab.txt").write_text("a\nb\n[UNK]\n")
    with pytest.raises(ValueError, match=r"not a vocabulary of BERT; missing: \[CLS\], \[PAD\], \[SEP\]$"):
        read_assets(tmp_path / "vocab.txt")
