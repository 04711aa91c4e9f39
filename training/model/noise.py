"""Gaussian noise that depends on a seed alone, and interpolation between noises."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def seeded_noise(seed: int, index: int, shape: Sequence[int]) -> Tensor:
    """Return standard normal noise that depends on (seed, index) alone: float32 of `shape`, on the CPU.

    seed: in [0, 2^63). index: 0 for the start of a run, i + 1 for the noise of evaluation i.
    The generator is counter-based and has no state (Salmon et al. 2011), so a batch's other rows never matter.
    """
    noise = np.empty(tuple(shape), np.float32)
    fill_with_noise(noise, seed, index)
    return torch.from_numpy(noise)


def fill_with_noise(noise: NDArray[np.float32], seed: int, index: int) -> None:
    """Write what `seeded_noise` returns into an array. Other threads run while it draws."""
    generator = np.random.Generator(np.random.Philox(key=[seed, index]))
    generator.standard_normal(dtype=np.float32, out=noise)


def slerp(a: Tensor, b: Tensor, shares: Sequence[float]) -> Tensor:
    """Interpolate between two noises along the great circle: a, b [...], shares in [0, 1] -> [len(shares), ...].

    A straight line would leave the shell on which Gaussian noise concentrates (Shoemake 1985; Song et al. 2021,
    section 5.3).
    """
    cosine = F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)
    angle = torch.acos(cosine.clamp(-1, 1))
    if float(angle) < 1e-4:
        return torch.stack([torch.lerp(a, b, share) for share in shares])
    parts = [(torch.sin((1 - s) * angle) * a + torch.sin(s * angle) * b) / torch.sin(angle) for s in shares]
    return torch.stack(parts).to(a.dtype)
