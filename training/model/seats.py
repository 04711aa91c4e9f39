"""The network rows of a batch and the conditions in them."""

from collections import defaultdict, deque
from collections.abc import Sequence

from training.model.latent_diffusion import Prepared


class Seats:
    """Assigns network rows to the conditions of each evaluation.

    Every network row holds the conditions of one answer. Copying conditions into a row takes time, so conditions that
    are in a row already keep it. The others are then copied into the first free rows, in their order.
    """

    def __init__(self, rows: int) -> None:
        self.conditions: Prepared | None = None  # of every row, [rows, ...]; None before the first assignment
        self._occupants: list[Prepared | None] = [None] * rows

    def assign(self, wanted: Sequence[Prepared]) -> list[int]:
        """Return a row for each of `wanted`, one-row conditions, and copy those that are in no row yet.

        The same object may be wanted more than once: it gets as many rows. Equal conditions in another object count as
        others. Raises ValueError if more rows are wanted than there are.
        """
        if len(wanted) > len(self._occupants):
            raise ValueError(f"{len(wanted)} rows are wanted; permitted: at most {len(self._occupants)}")
        rows_of: defaultdict[int, deque[int]] = defaultdict(deque)
        for row, occupant in enumerate(self._occupants):
            rows_of[id(occupant)].append(row)
        kept = [rows.popleft() if (rows := rows_of[id(conditions)]) else None for conditions in wanted]
        taken = set(kept)
        free = (row for row in range(len(self._occupants)) if row not in taken)
        assigned = []
        for own, conditions in zip(kept, wanted, strict=True):
            row = next(free) if own is None else own
            if own is None:
                self._write(row, conditions)
            assigned.append(row)
        return assigned

    def _write(self, row: int, conditions: Prepared) -> None:
        self._occupants[row] = conditions
        if self.conditions is None:
            rows = len(self._occupants)
            empty = (None if part is None else part.new_zeros(rows, *part.shape) for part in conditions)
            self.conditions = Prepared(*empty)
        for whole, part in zip(self.conditions, conditions, strict=True):
            if whole is not None and part is not None:
                whole[row] = part
