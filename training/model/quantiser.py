"""The codebook of a VQ-regularised autoencoder (van den Oord et al. 2017; Esser et al. 2021)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

COMMITMENT = 0.25  # beta; as in the released models it weights the codebook's term, not the encoder's

VECTORS_AT_ONCE = 4096  # vectors per distance matrix, which takes 128 MiB for 8192 entries


class Quantisation(NamedTuple):
    """The result of quantising latents [R, C, h, w]."""

    latents: Tensor  # [R, C, h, w], the nearest entries; gradients pass straight through to the given latents
    indices: Tensor  # [R, h, w] int64, of the entries; renumbered if the codebook is remapped
    loss: Tensor  # scalar, mean of |sg(entry) - z|^2 + beta |entry - sg(z)|^2 (van den Oord et al. 2017, eq. 3)


class VectorQuantiser(nn.Module):
    """Replaces each latent vector by the nearest of `size` learned entries.

    channels: of the latents. used: the entries that get a number, in the order of these numbers, for a model of indices
        that knows only those (the remap of taming-transformers). It changes the indices, not the latents.
    unknown: the number of any other entry: "extra" is one more than the last, "random" is drawn, or a fixed number.
    Raises ValueError naming the invalid argument.
    """

    used: Tensor

    def __init__(
        self, size: int, channels: int, *, used: Sequence[int] | None = None, unknown: str | int = "random"
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"codebook_size: {size} is not allowed; permitted: at least 1")
        if used is not None and (len(set(used)) < len(used) or not all(0 <= i < size for i in used)):
            raise ValueError(f"codebook_used: permitted: different numbers from 0 to {size - 1}")
        if isinstance(unknown, str) and unknown not in ("extra", "random"):
            raise ValueError(f"codebook_unknown: {unknown!r} is not allowed; permitted: 'extra', 'random' or a number")
        self.codebook = nn.Embedding(size, channels)
        nn.init.uniform_(self.codebook.weight, -1 / size, 1 / size)
        self.unknown = unknown
        self.remaps = used is not None
        if used is not None:
            self.register_buffer("used", torch.tensor(list(used), dtype=torch.int64))

    def forward(self, z: Tensor) -> Quantisation:
        """Quantise latents [R, C, h, w]. Raises ValueError for a wrong number of channels."""
        entries = self.codebook.weight
        if z.shape[1] != entries.shape[1]:
            raise ValueError(f"latents: {z.shape[1]} channels; this codebook has {entries.shape[1]}")
        rows = z.permute(0, 2, 3, 1)
        vectors = rows.reshape(-1, z.shape[1])
        indices = torch.cat([self._nearest(part) for part in torch.split(vectors, VECTORS_AT_ONCE)])
        nearest = self.codebook(indices).view(rows.shape).permute(0, 3, 1, 2)
        loss = (nearest.detach() - z).square().mean() + COMMITMENT * (nearest - z.detach()).square().mean()
        return Quantisation(z + (nearest - z).detach(), self._renumber(indices).view(rows.shape[:3]), loss)

    def entries(self, indices: Tensor) -> Tensor:
        """Return the entries of indices from `forward`: [R, h, w] -> [R, C, h, w]."""
        if self.remaps:  # "extra" is any entry without a number; read it as the first one
            indices = self.used[torch.where(indices < len(self.used), indices, 0)]
        return torch.as_tensor(self.codebook(indices).permute(0, 3, 1, 2))

    @torch.no_grad()
    def _nearest(self, vectors: Tensor) -> Tensor:
        """Return the index of each vector's nearest entry, found in float32 also under autocast: [N, C] -> [N]."""
        with torch.autocast(vectors.device.type, enabled=False):
            vectors, entries = vectors.float(), self.codebook.weight.float()
            # |z - e|^2 = |z|^2 + |e|^2 - 2 z e, summed in the authors' order, so that ties break as in their code
            distance = vectors.square().sum(1, keepdim=True) + entries.square().sum(1) - 2 * vectors @ entries.T
            return distance.argmin(1)

    def _renumber(self, indices: Tensor) -> Tensor:
        if not self.remaps:
            return indices
        match = indices[:, None] == self.used
        known, number = match.any(1), match.int().argmax(1)
        if self.unknown == "random":
            other = torch.randint(len(self.used), indices.shape, device=indices.device)
        else:
            other = torch.full_like(indices, len(self.used) if self.unknown == "extra" else int(self.unknown))
        return torch.where(known, number, other)
