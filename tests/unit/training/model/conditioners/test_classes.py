"""Classes and token ids."""

import torch

from training.model import conditioners
from training.model.conditioners.token_ids import TokenIdsConditioner


def test_a_class_may_be_the_null_condition() -> None:
    conditioner = conditioners.ClassConditioner(3, 8, null=2)
    assert conditioner.embedding.weight.shape == (3, 8)
    assert torch.equal(conditioner.embed([2]), conditioner.embed([None]))


def test_token_ids_are_padded() -> None:
    conditioner = TokenIdsConditioner(10, 4, 8, 1, padding=9)
    assert conditioner.read([1, 2]) == [1, 2, 9, 9]
    assert torch.equal(conditioner.embed([None]), conditioner.embed([[9] * 4]))
