"""What conditioners of every type have in common."""

import copy
import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load, save

from tests.support.conditioners import CONFIGS, TOKENS, build_conditioner, embed, example_values
from training.model import conditioners


@pytest.mark.parametrize("kind", CONFIGS)
def test_rows_do_not_depend_on_each_other(kind: str, assets: dict[str, bytes]) -> None:
    conditioner = build_conditioner(kind, assets)
    first, second = example_values(kind)
    together = embed(conditioner, [first, None, second])
    assert together.dtype == torch.float32
    for row, value in zip(together, [first, None, second], strict=True):
        torch.testing.assert_close(embed(conditioner, [value])[0], row, rtol=0, atol=1e-6)
    assert not torch.allclose(together[0], together[1])
    assert not torch.allclose(together[0], together[2])


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_saved_conditioner_gives_the_same_embeddings(kind: str, assets: dict[str, bytes]) -> None:
    conditioner = build_conditioner(kind, assets)
    config = conditioner.config()
    assert json.loads(json.dumps(config)) == config
    torch.manual_seed(1)
    again = conditioners.build(config, conditioner.assets()).eval()
    again.load_state_dict(load(save(dict(conditioner.state_dict()))))
    assert (again.config(), again.assets(), again.schema()) == (config, conditioner.assets(), conditioner.schema())
    values = [*example_values(kind), None]
    for other in (again, copy.deepcopy(conditioner)):  # a moving average starts as a deep copy
        assert torch.equal(embed(other, values), embed(conditioner, values))


@pytest.mark.parametrize("kind", [k for k in CONFIGS if k not in ("low_resolution", "masked_image")])
def test_what_is_trained_gets_gradients_and_what_is_frozen_does_not(kind: str, assets: dict[str, bytes]) -> None:
    conditioner = build_conditioner(kind, assets).train()
    (embed(conditioner, example_values(kind)) ** 2).sum().backward()
    for name, parameter in conditioner.named_parameters():
        trained = not name.startswith("encoder.")
        assert parameter.requires_grad == (parameter.grad is not None) == trained, name


@pytest.mark.parametrize("kind", CONFIGS)
def test_embeddings_are_on_the_conditioner_s_device(kind: str, assets: dict[str, bytes]) -> None:
    assert build_conditioner(kind, assets).to("meta").device.type == "meta"


GOOD_AND_BAD: dict[str, tuple[list[Any], list[Any]]] = {
    "class": ([0, 2], [3, -1, "0", 0.5, None]),
    "token_ids": ([[], [0, 9], [1] * 6], [[10], [1] * 7, "cat", [0.5]]),
    "text": (["", "a cat"], [5, "a" * 2001, ["a"]]),
    "frozen_text": (["", "a cat"], [5, "a" * 2001]),
    "layout": (
        [{"boxes": []}, {"boxes": [{"class": 3, "box": [0, 0.5, 1, 1]}], "crop": [0, 0, 1, 1]}],
        [
            [], {}, {"boxes": [{"class": 4, "box": [0, 0, 1, 1]}]}, {"boxes": [{"class": 0, "box": [0, 0, 1, 1.1]}]},
            {"boxes": [{"class": 0, "box": [0, 0, 1]}]}, {"boxes": [{"class": 0, "box": [0, 0, 1, 1]}] * 4},
            {"boxes": [{"class": 0, "box": [0, 0, 1, 1], "group": True}]},
        ],
    ),
    "layout_map": (
        [{"boxes": []}, {"boxes": [{"class": 3, "box": [0, 0.5, 1, 1]}] * 3}],
        [[], {}, {"boxes": [{"class": 4, "box": [0, 0, 1, 1]}]}, {"boxes": [{"class": 0, "box": [0, 0, 1, 1]}] * 4},
         {"boxes": [], "crop": [0, 0, 1, 1]}],
    ),
    "semantic_map": (["aGk="], [5, [[1]]]),
    "low_resolution": (["aGk="], [5]),
    "masked_image": ([{"image": "aGk=", "mask": "aGk="}], [{"image": "aGk="}, "aGk="]),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_schema_accepts_good_values_and_refuses_bad_ones(kind: str, assets: dict[str, bytes]) -> None:
    conditioner = build_conditioner(kind, assets)
    schema = conditioner.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good, bad = GOOD_AND_BAD[kind]
    for value in good:
        assert validator.is_valid(value), value
        if kind in TOKENS:
            conditioner.read(value)
    for value in bad:
        assert not validator.is_valid(value), value


def test_every_type_is_tested() -> None:
    known: Mapping[str, Any] = conditioners.TYPES
    assert set(CONFIGS) == set(known)
