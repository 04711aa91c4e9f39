"""Tests that the bits of a row depend neither on its position in the batch nor on the other rows.

What is compiled is also compared with the same in eager mode, in case a compiler makes a mistake.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from services.worker.device_faults import UnstableProfile, concerns_device
from services.worker.execution import Execution
from services.worker.execution import decode as decode_eagerly
from training.errors import DarkroomError, summarise
from training.model import evaluation
from training.model.batch import TakeStep
from training.model.evaluation import Layout
from training.model.latent_diffusion import LatentDiffusion, Prepared
from training.model.trajectory_table import COLUMNS

log = logging.getLogger("darkroom.engines")

FEW = 2  # rows that are also computed in eager mode, which takes more memory a row
MOST_DIFFERENCE = 0.1  # of compiled and eager, relative; 0.01 was measured in bf16
REMEDY = "set DARKROOM_PROFILE to another profile, such as fp32"


class SelfTest:
    """Computes rows twice, in other places and beside other rows, and compares their bits.

    shape: (C, h, w) of the latents. profile: the name of the execution's profile, for messages.
    """

    def __init__(self, model: LatentDiffusion, shape: Sequence[int], execution: Execution, profile: str) -> None:
        self._model, self._shape, self._execution, self._profile = model, tuple(shape), execution, profile
        self._generator = torch.Generator().manual_seed(0)

    def check_step(self, take_step: TakeStep, null: Prepared, rows: int) -> None:
        """Take steps of `rows` rows whose conditions are near the null condition. Raises UnstableProfile."""
        ticket = self._ticket(rows)
        coefficients = self._random(rows, COLUMNS).abs() + 0.5
        coefficients[:, 0] *= 100  # t
        near = [None if part is None else part + self._random(rows, *part.shape).to(part) for part in null]
        parts = [None if part is None else part.contiguous() for part in near]  # as `Seats` has them

        def step(
            take_step: TakeStep, ticket: Tensor, state: Tensor, coefficients: Tensor, noise: Tensor, *conditions: Any
        ) -> Tensor:
            after, _ = take_step(self._model, state, Prepared(*conditions), ticket, coefficients, noise, False)
            return after

        given = [self._random(rows, 5, *self._shape), coefficients, self._random(rows, *self._shape), *parts]
        compute, eager = partial(step, take_step, ticket), partial(step, evaluation.take_step, self._ticket(FEW))
        self._check(compute, given, "a step gives a row other bits at another place or beside other rows")
        self._compare(compute, eager, given, "step")

    def check_decoder(self, decode: Callable[[Any, Tensor], Tensor], rows: int) -> None:
        """Decode `rows` latents at once with each decoder of the model. Raises UnstableProfile."""
        for name, decoder in self._model.decoders.items():
            called = "decoder" if name == "full" else f"{name} decoder"
            given = [self._random(rows, *self._shape)]
            problem = f"the {called} gives a latent other bits at another place or beside other latents"
            self._check(partial(decode, decoder), given, problem)
            self._compare(partial(decode, decoder), partial(decode_eagerly, decoder), given, called)

    def failure(self, problem: str) -> UnstableProfile:
        """Return the error for a profile that cannot be used."""
        return UnstableProfile(f"profile {self._profile}: {problem}; {REMEDY}")

    @contextmanager
    def named_failures(self) -> Iterator[None]:
        """Raise UnstableProfile for what a compiler or a library cannot do, but is no error of the release.

        Whatever a release can do, it can do in fp32 without a compiler.
        """
        try:
            yield
        except Exception as error:
            if self._execution.setting == "fp32" or isinstance(error, DarkroomError) or concerns_device(error):
                raise
            log.warning("profile %s cannot be used", self._profile, exc_info=True)
            verb = "compiled" if self._execution.compiled else "computed"
            raise self.failure(f"it cannot be {verb}: {summarise(error)}") from None

    def _ticket(self, rows: int) -> Tensor:
        """Return the ticket of a step in which each row is that of its slot."""
        layout = Layout(rows, self._model.device)
        layout.place(range(rows), range(rows), range(rows))
        return layout.send()

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

    def _compare(
        self,
        compute: Callable[..., Tensor],
        eager: Callable[..., Tensor],
        given: Sequence[Tensor | None],
        called: str,
    ) -> None:
        """Raise UnstableProfile unless the first FEW compiled rows are nearly those of the same in eager mode."""
        if not self._execution.compiled:
            return
        exact = eager(*(None if part is None else part[:FEW] for part in given))
        difference = float((compute(*given)[:FEW] - exact).norm() / exact.norm())
        if not difference <= MOST_DIFFERENCE:  # also for NaN
            raise self.failure(f"the compiled {called} differs from the eager one by {difference:.2g} of its norm")
