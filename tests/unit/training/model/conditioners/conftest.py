"""The tokenizer of the small text conditioners."""

import pytest

from tests.support.conditioners import PIECES
from training.model.conditioners.text_tokenizer import read_assets


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The vocabulary of the word pieces, as a tokenizer's files."""
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return read_assets(path)
