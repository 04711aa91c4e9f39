"""Restarts codebook entries that no latent uses."""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn


class CodebookRestarts(nn.Module):
    """Moves each entry that was unused for `after` steps to a random latent (Dhariwal et al. 2020, section 3.1).

    All entries start as unused, so the first step spreads the codebook over the latents.
    """

    idle: Tensor  # [size], steps since an entry was used

    def __init__(self, size: int, after: int) -> None:
        super().__init__()
        self.after = after
        self.register_buffer("idle", torch.full((size,), after))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def note(self, z: Tensor, indices: Tensor) -> None:
        """Note unscaled latents [R, C, h, w] of a part of the batch, and the indices of their entries [R, h, w]."""
        self.seen.append((z.detach().movedim(1, -1).flatten(0, 2), indices.flatten()))

    @torch.no_grad()
    def restart(self, codebook: nn.Embedding, seed: int, step: int) -> None:
        """Count the use of entries in this step on all ranks, and move unused ones. Every rank does the same."""
        vectors, indices = (gather_rows(torch.cat(parts)) for parts in zip(*self.seen, strict=True))
        self.seen = []
        self.idle += 1
        self.idle[indices] = 0
        (due,) = torch.where(self.idle > self.after)
        chosen = np.random.default_rng([seed, step]).permutation(len(vectors))[: len(due)]
        due = due[: len(chosen)]
        codebook.weight[due] = vectors[torch.from_numpy(chosen).to(vectors.device)].to(codebook.weight)
        self.idle[due] = 0


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, in rank order."""
    if not dist.is_initialized():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
