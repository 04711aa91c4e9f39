"""The trajectories of a batch in the device's memory, so that a step names an evaluation by its number."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from training.model.solver_table import Trajectory

COLUMNS = 4 + 5 * 7  # t, alpha, sigma, step and A
FIRST_CAPACITY = 2**14  # evaluations of 156 bytes: 2.6 MB

WAITS = 0  # the entry of a slot that takes no part: its state stays


class TrajectoryTable:
    """One entry for each evaluation of the trajectories in use: float32 [entries, COLUMNS].

    A trajectory is copied once, whatever number of runs follow it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._used = 0
        self._entries: dict[int, tuple[Trajectory, int]] = {}  # by the id of the trajectory, which is kept with it
        self._begin(FIRST_CAPACITY)

    def add(self, trajectory: Trajectory) -> int:
        """Return the entry of a trajectory's first evaluation; those of the others follow.

        Raises KeyError if there is no room: call `rebuild` then.
        """
        known = self._entries.get(id(trajectory))
        if known is not None:
            return known[1]
        start, stop = self._used, self._used + len(trajectory)
        if stop > len(self._table):
            raise KeyError("the table of trajectories is full")
        self._table[start:stop] = transfer(columns(trajectory), self._device)
        self._entries[id(trajectory)] = trajectory, start
        self._used = stop
        return start

    def rebuild(self, trajectories: Iterable[Trajectory]) -> None:
        """Keep these trajectories alone, in a table that has as much room again. Their entries change."""
        kept = {id(trajectory): trajectory for trajectory in trajectories}
        self._begin(max(FIRST_CAPACITY, 2 * (1 + sum(map(len, kept.values())))))
        for trajectory in kept.values():
            self.add(trajectory)

    def look_up(self, entries: Tensor) -> Tensor:
        """Return the coefficients of entries, int32 [R] -> [R, COLUMNS]."""
        return self._table.index_select(0, entries)

    def _begin(self, capacity: int) -> None:
        self._entries = {}
        self._table = torch.zeros(capacity, COLUMNS, device=self._device)
        waits = torch.cat([torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.eye(5, 7).flatten()])  # A keeps the state
        self._table[WAITS] = transfer(waits, self._device)
        self._used = WAITS + 1


def columns(trajectory: Trajectory) -> Tensor:
    """Return the entries of a trajectory: float32 [E, COLUMNS], on the host."""
    step = np.zeros(len(trajectory)) if trajectory.step is None else trajectory.step
    levels = np.stack([trajectory.t, trajectory.alpha, trajectory.sigma, step], axis=1)
    return torch.from_numpy(np.hstack([levels, trajectory.A.reshape(-1, 5 * 7)]).astype(np.float32))


def transfer(values: Tensor, device: torch.device) -> Tensor:
    """Copy values from the host to a device without waiting for it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
