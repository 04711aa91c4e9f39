"""Several conditioners of one model: their conditions are joined by entry."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.conditioners import CONFIGS, SIZE, build_conditioner, encode_images, example_values
from training.model.conditioners import Conditioners, Conditions
from training.model.conditioners.conditioner import TokenConditioner


def test_conditions_of_one_entry_are_joined(assets: dict[str, bytes]) -> None:
    model = Conditioners({kind: build_conditioner(kind, assets) for kind in CONFIGS})
    model["label"] = build_conditioner("class", assets, entry="time_embedding")
    model["title"] = build_conditioner("text", assets, entry="time_embedding")
    request = {kind: example_values(kind)[0] for kind in CONFIGS} | {"label": 1, "title": "a cat"}
    model.check(request)
    with torch.inference_mode():
        found: Conditions = model([request, None, request | {"text": None}], SIZE, encode_images)
    assert found.tokens is not None
    assert found.maps is not None
    assert found.embedding is not None
    assert found.tokens.shape == (3, 1 + 6 + 6 + 6 + (3 * 3 + 2), 16)
    assert found.maps.shape == (3, 5 + 3 + 3 + (3 + 1), *SIZE)
    label, title = model["label"], model["title"]
    assert isinstance(label, TokenConditioner)
    assert isinstance(title, TokenConditioner)
    pooled = label.embed([1, None]) + title.embed(["a cat", None]).mean(1, keepdim=True)
    torch.testing.assert_close(found.embedding[:2], pooled[:, 0])
    changed = (found.tokens[0] - found.tokens[2]).abs().amax(dim=1) > 1e-5  # by the null of one field
    assert changed.tolist() == [7 <= i < 13 for i in range(30)]
    assert model.schema()["required"] == sorted(model)


def test_a_model_without_conditions_has_none() -> None:
    assert Conditioners()([{}, None], SIZE, encode_images) == Conditions()


def test_a_missing_or_bad_field_is_named(assets: dict[str, bytes]) -> None:
    model = Conditioners(
        {"label": build_conditioner("class", assets), "scene": build_conditioner("semantic_map", assets)}
    )
    labels = np.zeros((8, 12), int)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"scene": labels}, "label: is missing; every request needs it"),
        ({"label": 3, "scene": labels}, "label: 3 is not allowed; permitted: an integer from 0 to 2"),
        ({"label": None, "scene": labels + 5}, "scene: label 5 is not allowed; permitted: an integer from 0 to 4"),
    ]
    for request, message in cases:
        with pytest.raises(ValueError, match=f"^{message}$"):
            model.check(request)
        with pytest.raises(ValueError, match=f"^{message}$"):
            model([None, request], SIZE, encode_images)
