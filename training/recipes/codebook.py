"""Bringing entries of a codebook that nothing is near back to where latents are."""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn


class CodebookRestarts(nn.Module):
    """Moves each entry that was nearest to no latent for `after` steps onto a latent (Dhariwal et al. 2020, 3.1).

    Entries begin as if unused for long, so that the first step lays the codebook out over the latents there are.
    """

    idle: Tensor  # [size], steps since an entry was used

    def __init__(self, size: int, after: int) -> None:
        super().__init__()
        self.after = after
        self.register_buffer("idle", torch.full((size,), after))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def note(self, z: Tensor, indices: Tensor) -> None:
        """Unscaled latents [R, C, h, w] of a part of the batch, and the numbers of their entries [R, h, w]."""
        self.seen.append((z.detach().movedim(1, -1).flatten(0, 2), indices.flatten()))

    @torch.no_grad()
    def restart(self, codebook: nn.Embedding, seed: int, step: int) -> None:
        """Count this step's use on all ranks, and move the entries that are due. Every rank does the same."""
        vectors, indices = (gathered(torch.cat(parts)) for parts in zip(*self.seen, strict=True))
        self.seen = []
        self.idle += 1
        self.idle[indices] = 0
        (due,) = torch.where(self.idle > self.after)
        chosen = np.random.default_rng([seed, step]).permutation(len(vectors))[: len(due)]
        due = due[: len(chosen)]
        codebook.weight[due] = vectors[torch.from_numpy(chosen).to(vectors.device)].to(codebook.weight)
        self.idle[due] = 0


def gathered(rows: Tensor) -> Tensor:
    """The rows of all ranks, in their order."""
    if not dist.is_initialized():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
