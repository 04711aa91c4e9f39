"""One evaluation of a batch on the device: the network, guidance and the solver's step, without waiting for the host.

What differs from step to step is a ticket, which the host fills in while the device computes the step before.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.model.guidance import ImageGuider, guide
from training.model.latent_diffusion import LatentDiffusion, Prepared
from training.model.solver_step import advance
from training.model.trajectory_table import WAITS

BUFFERS = 3  # tickets in pinned memory: one is copied to the device, one waits for its step, and one is written

Levels = tuple[Tensor, Tensor, Tensor, Tensor]  # t, alpha, sigma and step of each slot, [slots] each


class Ticket(NamedTuple):
    """Which slot each network row reads in one evaluation, and which rows answer for each slot."""

    source: Tensor  # int32 [rows], the slot that a row reads
    conditional: Tensor  # int32 [slots], the row of the conditional answer; any row if the slot takes no part
    null: Tensor  # int32 [slots], the row of the null answer; the conditional one without guidance
    active: Tensor  # int32 [slots], whether the slot takes part
    entry: Tensor  # int32 [slots], see `trajectory_table`
    scale: Tensor  # float32 [slots], see `Guidance`
    rescale: Tensor  # float32 [slots]

    @classmethod
    def of(cls, packed: Tensor) -> "Ticket":
        """Return the fields of a packed ticket, int32 [7, rows]."""
        return cls(*packed[:5].unbind(), *packed[5:].view(torch.float32).unbind())


class Layout:
    """A ticket as the host writes it. `send` copies it to the device without waiting."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._device = device
        self._integers: NDArray[np.int32] = np.zeros((7, rows), np.int32)
        self._floats = self._integers[5:].view(np.float32)
        self._pinned = [torch.zeros(7, rows, dtype=torch.int32).pin_memory() for _ in range(BUFFERS * self._is_remote)]
        self._turn = 0

    @property
    def _is_remote(self) -> bool:
        return self._device.type == "cuda"

    @property
    def rescales(self) -> bool:
        """Whether the guidance of any slot is rescaled."""
        return bool(self._floats[1].any())

    def place(self, slots: Sequence[int], entries: Sequence[int], rows: Sequence[int]) -> None:
        """Let these slots alone take part, unguided: with their entries, and the rows of their conditional answers."""
        source, conditional, null, active, entry = self._integers[:5]
        self._integers[:5] = [[0], [0], [0], [0], [WAITS]]
        self._floats[:] = [[1.0], [0.0]]
        at, answers = np.array(slots, np.int32), np.array(rows, np.int32)
        source[answers] = at
        conditional[at] = null[at] = answers
        active[at] = 1
        entry[at] = entries

    def guide(
        self, slots: Sequence[int], rows: Sequence[int], scales: Sequence[float], rescales: Sequence[float]
    ) -> None:
        """Guide these slots: with the rows of their null answers, see `Guidance`."""
        at, answers = np.array(slots, np.int32), np.array(rows, np.int32)
        self._integers[0][answers] = at
        self._integers[2][at] = answers
        self._floats[0][at], self._floats[1][at] = scales, rescales

    def tell(self, slots: Sequence[int], scales: Sequence[float]) -> None:
        """Tell a network that answers with guidance the scales of these slots."""
        self._floats[0][np.array(slots, np.int32)] = scales

    def move_on(self) -> None:
        """Name the next evaluation of every slot that takes part."""
        self._integers[4] += self._integers[3]

    def send(self) -> Tensor:
        """Return the packed ticket on the device, int32 [7, rows]."""
        written = torch.from_numpy(self._integers)
        if not self._is_remote:
            return written
        self._turn = (self._turn + 1) % BUFFERS
        return self._pinned[self._turn].copy_(written).to(self._device, non_blocking=True)


def split(coefficients: Tensor) -> tuple[Levels, Tensor]:
    """Return the levels of each slot, and A, [slots, 5, 7], from a look-up in the table of trajectories."""
    t, alpha, sigma, step = coefficients[:, :4].unbind(1)
    return (t, alpha, sigma, step), coefficients[:, 4:].reshape(-1, 5, 7)


def denoise(
    model: LatentDiffusion, x: Tensor, conditions: Prepared, ticket: Ticket, levels: Levels, *, rescales: bool
) -> Tensor:
    """Return the guided estimates of z_0 for x: [slots, C, h, w] -> [slots, C, h, w]; 0 where a slot takes no part."""
    t, alpha, sigma, step = levels
    numbers = model.numbers(step, ticket.scale)
    told = None if numbers is None else numbers.index_select(0, ticket.source)
    outputs = model.predict(x.index_select(0, ticket.source), t.index_select(0, ticket.source), conditions, told)
    conditional, null = (outputs.index_select(0, rows) for rows in (ticket.conditional, ticket.null))
    output = guide(conditional, null, ticket.scale, ticket.rescale if rescales else None)
    each = (-1, 1, 1, 1)
    estimates = model.diffusion.denoise_at(x, output, alpha.view(each).to(x), sigma.view(each).to(x))
    # A slot that takes no part read another run's answer, which may be NaN.
    return torch.where(ticket.active.view(each) > 0, estimates, 0.0)


def take_step(
    model: LatentDiffusion,
    state: Tensor,
    conditions: Prepared,
    ticket: Tensor,
    coefficients: Tensor,
    noise: Tensor | None,
    rescales: bool,
) -> tuple[Tensor, Tensor]:
    """Return the next state, [slots, 5, C, h, w], and the estimates of z_0, [slots, C, h, w].

    ticket: packed. coefficients: of every slot, from the table of trajectories. noise: [slots, C, h, w], finite; None
    if no slot takes any. rescales: whether the guidance of any slot is rescaled.
    """
    levels, A = split(coefficients)
    estimates = denoise(model, state[:, 0], conditions, Ticket.of(ticket), levels, rescales=rescales)
    return advance(state, estimates, noise, A), estimates


def take_guided_step(guider: ImageGuider, slots: Sequence[int], *given: Any) -> tuple[Tensor, Tensor]:
    """Do what `take_step` does, with estimates moved by the guider: z_0 + (sigma^2 / alpha) grad log p(y | z_t).

    slots: of the runs, in the order of the guider's targets. given: the arguments of `take_step`.
    """
    model, state, conditions, ticket, coefficients, noise, rescales = given
    (t, _, _, step), A = split(coefficients)
    alpha, sigma = model.diffusion.alpha_sigma(t, state[:, 0])  # in the precision of the state, [slots, 1, 1, 1]
    with torch.enable_grad():
        x = state[:, 0].detach().requires_grad_()
        estimates = denoise(model, x, conditions, Ticket.of(ticket), (t, alpha, sigma, step), rescales=rescales)
        likelihood = guider.log_likelihood(model.autoencoder, estimates[list(slots)])
        (gradient,) = torch.autograd.grad(likelihood.sum(), x)
    # pure noise, with alpha 0, says nothing of the image, so there is no likelihood to follow
    push = torch.where(alpha > 0, sigma.square() / alpha.clamp(min=torch.finfo(alpha.dtype).tiny) * gradient, 0.0)
    estimates = (estimates + push).detach()
    return advance(state, estimates, noise, A), estimates
