"""Tests that the bits of a row depend neither on its position in the batch nor on the other rows."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from services.worker.device_faults import UnstableProfile
from training.model.batch import TakeStep
from training.model.evaluation import Layout
from training.model.latent_diffusion import LatentDiffusion, Prepared
from training.model.trajectory_table import COLUMNS

REMEDY = "set DARKROOM_PROFILE to another profile, such as fp32"


class SelfTest:
    """Computes rows twice, in other places and beside other rows, and compares their bits.

    shape: (C, h, w) of the latents. profile: the name of the execution profile, for messages.
    """

    def __init__(self, model: LatentDiffusion, shape: Sequence[int], profile: str) -> None:
        self._model, self._shape, self._profile = model, tuple(shape), profile
        self._generator = torch.Generator().manual_seed(0)

    def check_step(self, take_step: TakeStep, null: Prepared, rows: int) -> None:
        """Take steps of `rows` rows whose conditions are near the null condition. Raises UnstableProfile."""
        every = range(rows)
        layout = Layout(rows, self._model.device)
        layout.place(every, every, every)
        ticket = layout.send()
        coefficients = self._random(rows, COLUMNS).abs() + 0.5
        coefficients[:, 0] *= 100  # t
        parts = [None if part is None else part + self._random(rows, *part.shape).to(part) for part in null]

        def step(state: Tensor, coefficients: Tensor, noise: Tensor, *conditions: Tensor | None) -> Tensor:
            after, _ = take_step(self._model, state, Prepared(*conditions), ticket, coefficients, noise, False)
            return after

        given = [self._random(rows, 5, *self._shape), coefficients, self._random(rows, *self._shape), *parts]
        self._check(step, given, "a step gives a row other bits at another place or beside other rows")

    def check_decoder(self, decode: Callable[[Any, Tensor], Tensor], rows: int) -> None:
        """Decode `rows` latents at once with each decoder of the model. Raises UnstableProfile."""
        for name, decoder in self._model.decoders.items():
            called = "the decoder" if name == "full" else f"the {name} decoder"
            self._check(
                partial(decode, decoder),
                [self._random(rows, *self._shape)],
                f"{called} gives a latent other bits at another place or beside other latents",
            )

    def failure(self, problem: str) -> UnstableProfile:
        """Return the error for a profile that cannot be used."""
        return UnstableProfile(f"profile {self._profile}: {problem}; {REMEDY}")

    def _random(self, *sizes: int) -> Tensor:
        return torch.randn(sizes, generator=self._generator).to(self._model.device)

    def _check(self, compute: Callable[..., Tensor], given: Sequence[Tensor | None], problem: str) -> None:
        """Raise UnstableProfile unless rows keep their bits if all are moved and every second one is replaced."""
        rows = next(len(part) for part in given if part is not None)
        order = torch.randperm(rows, generator=self._generator).to(self._model.device)
        first = compute(*given).clone()
        moved = [None if part is None else part[order] for part in given]
        for part in moved:
            if part is not None:
                part[1::2] += 0.25
        if not torch.equal(first[order][::2], compute(*moved)[::2]):
            raise self.failure(problem)
