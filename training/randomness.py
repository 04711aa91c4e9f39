"""Random numbers as a function of (seed, step), so that a resumed run draws what it would have drawn."""

import numpy as np
import torch


def step_generator(seed: int, step: int, *, rank: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one training step on one rank.

    The global generator is seeded alike: dropout layers draw from it and take no other.
    """
    mixed = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
    torch.manual_seed(mixed)
    return torch.Generator(device).manual_seed(mixed)
