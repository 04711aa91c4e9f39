"""Text as word pieces, encoded by a transformer that is trained."""

import pytest
import torch

from tests.support.conditioners import PIECES, build_conditioner, embed
from training.model.conditioners.text import TextConditioner


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", [2, 3, 0, 0, 0, 0]),
        ("A red CATS", [2, 4, 5, 6, 7, 3]),
        ("a red cats cats", [2, 4, 5, 6, 7, 3]),  # cut off before [SEP]
        ("Café.", [2, 8, 9, 3, 0, 0]),  # accents are stripped
        ("dog", [2, 1, 3, 0, 0, 0]),
    ],
)
def test_text_is_cut_into_word_pieces(text: str, ids: list[int], assets: dict[str, bytes]) -> None:
    conditioner = build_conditioner("text", assets)
    assert isinstance(conditioner, TextConditioner)
    assert conditioner.read(text) == ids
    assert conditioner.transformer.vocabulary == len(PIECES)


def test_every_token_of_text_counts(assets: dict[str, bytes]) -> None:
    """No mask: the embedding of [PAD] reaches the tokens of the words, as in the released models."""
    conditioner = build_conditioner("text", assets)
    assert isinstance(conditioner, TextConditioner)
    before = embed(conditioner, ["a cat"])
    conditioner.transformer.token_embedding.weight.data[0] = torch.linspace(-1, 1, 16)
    assert not torch.allclose(embed(conditioner, ["a cat"])[0, 1], before[0, 1], atol=1e-3)
