"""Noise that is drawn ahead is that of its seed, whatever was expected before."""

import threading
from collections.abc import Sequence

import pytest
import torch

from training.model.noise import seeded_noise
from training.model.noise_ahead import Key, NoiseAhead

SHAPE = (2, 4, 4)


def test_noise_that_was_expected_for_a_step_that_took_none_does_not_overwrite_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run for which it was drawn left the batch while it was drawn, and another run has its slot."""
    noise, draw = NoiseAhead(2, SHAPE, torch.device("cpu")), NoiseAhead._draw
    second_is_drawn = threading.Event()
    order: list[Key] = []

    def slow(self: NoiseAhead, pairs: Sequence[tuple[int, Key]]) -> None:
        if (1, 1) in dict(pairs).values():
            second_is_drawn.wait(0.2)  # would draw last if nothing waited for it
        draw(self, pairs)
        if (2, 1) in dict(pairs).values():
            second_is_drawn.set()
        order.extend(key for _, key in pairs)

    monkeypatch.setattr(NoiseAhead, "_draw", slow)
    noise.expect({0: (1, 1)})
    noise.expect({0: (2, 1)})
    assert torch.equal(noise.take({0: (2, 1)})[0], seeded_noise(2, 1, SHAPE))
    assert order == [(1, 1), (2, 1)]
