"""Names of classes on sheets, in the scripts that people use."""

import pytest

from training.previews import font


@pytest.mark.parametrize("name", ["Füße", "Сапог", "μπότα", "łódź"])
def test_letters_are_drawn_as_themselves(name: str) -> None:
    letters = font.load(11)
    missing = bytes(letters.getmask("\ue000"))
    assert all(bytes(letters.getmask(letter)) != missing for letter in name)
