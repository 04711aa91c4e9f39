"""The network rows of a batch and the conditions in them."""

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
        free = list(range(len(self._occupants)))
        assigned: dict[int, int] = {}  # position in `wanted` -> row
        for i, conditions in enumerate(wanted):
            kept = next((row for row in free if self._occupants[row] is conditions), None)
            if kept is not None:
                assigned[i] = kept
                free.remove(kept)
        for i, conditions in enumerate(wanted):
            if i not in assigned:
                assigned[i] = free.pop(0)
                self._write(assigned[i], conditions)
        return [assigned[i] for i in range(len(wanted))]

    def _write(self, row: int, conditions: Prepared) -> None:
        self._occupants[row] = conditions
        if self.conditions is None:
            rows = len(self._occupants)
            empty = (None if part is None else part.new_zeros(rows, *part.shape) for part in conditions)
            self.conditions = Prepared(*empty)
        for whole, part in zip(self.conditions, conditions, strict=True):
            if whole is not None and part is not None:
                whole[row] = part
