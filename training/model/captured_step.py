"""A step as one CUDA graph, which the host starts with one call."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from training.model.latent_diffusion import LatentDiffusion, Prepared

WARM_UP = 3  # steps before the capture: they compile, and let libraries allocate their workspaces


class CapturedStep:
    """Replays `evaluation.take_step` as it was captured in the first call.

    A graph reads and writes fixed memory, so arguments that are in other memory are copied into it. Both answers are
    overwritten by the next call. One thread alone may call it.
    """

    def __init__(self, take_step: Any) -> None:
        self._take_step = take_step
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []

    def __call__(
        self,
        model: LatentDiffusion,
        state: Tensor,
        conditions: Prepared,
        ticket: Tensor,
        coefficients: Tensor,
        noise: Tensor,
        rescales: bool,
    ) -> tuple[Tensor, Tensor]:
        """Do what `evaluation.take_step` does, always with noise and with rescaled guidance."""
        given = [state, ticket, coefficients, noise, *(part for part in conditions if part is not None)]
        if self._graph is None:
            self._capture(model, given, conditions)
        for kept, new in zip(self._inputs, given, strict=True):
            if kept is not new:
                kept.copy_(new, non_blocking=True)
        assert self._graph is not None
        self._graph.replay()
        return self._outputs

    def _capture(self, model: LatentDiffusion, given: list[Tensor], conditions: Prepared) -> None:
        state, ticket, coefficients, noise = (tensor.to(model.device, copy=True) for tensor in given[:4])
        self._inputs = [
            state,
            ticket,
            coefficients,
            noise,
            *given[4:],
        ]  # the conditions of all rows stay in their place

        def take_step() -> tuple[Tensor, Tensor]:
            answers: tuple[Tensor, Tensor] = self._take_step(
                model, state, conditions, ticket, coefficients, noise, True
            )
            return answers

        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in torch
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                take_step()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Threads that prepare requests pin memory meanwhile, which would end a capture that watches all threads. A
        # capture that fails leaves its stream the current one, so the present one is set again.
        capture = torch.cuda.graph(self._graph, capture_error_mode="thread_local")
        with original_error(), torch.cuda.stream(torch.cuda.current_stream()), capture:
            self._outputs = take_step()


@contextmanager
def original_error() -> Iterator[None]:
    """Raise what ended a capture, such as too little memory, instead of CUDA's error that the capture has ended."""
    try:
        yield
    except torch.AcceleratorError as error:
        if isinstance(error.__context__, RuntimeError):
            raise error.__context__ from None
        raise
