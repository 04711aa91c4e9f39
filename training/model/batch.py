"""Sampling runs that share network evaluations, each with its own solver, steps, guidance and conditions.

A `Run` samples one image. A `Batch` advances its runs by one network evaluation at a time; runs join and leave
between evaluations. The network always sees the same number of rows, so a run's result never depends on the others.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.model import evaluation
from training.model.guidance import Guidance, ImageGuider
from training.model.latent_diffusion import LatentDiffusion, Prepared
from training.model.noise import seeded_noise
from training.model.noise_ahead import Key, NoiseAhead
from training.model.seats import Seats
from training.model.solver_table import Trajectory
from training.model.trajectory_table import TrajectoryTable, transfer

KNOWN_NOISE = 2**32  # first index of the noise of a known region; those of evaluations are smaller
AHEAD = 1  # evaluations that the host prepares while the device computes one; see BUFFERS

TakeStep = Callable[..., tuple[Tensor, Tensor]]  # see `evaluation.take_step`


@dataclass(frozen=True)
class Known:
    """The part of an image that sampling keeps: its latent z_0 [C, h, w], and a mask [1, h, w], 1 where it is kept."""

    latent: Tensor
    mask: Tensor


@dataclass(eq=False)
class Run:
    """The sampling of one image: everything that its latent depends on, and its progress."""

    seed: int  # of the noise that the trajectory adds, see `noise.seeded_noise`
    trajectory: Trajectory
    start: Tensor  # [C, h, w], the input of the first evaluation
    conditions: Prepared  # one row
    null: Prepared | None = None  # one row; None if the model has no conditions
    guidance: Guidance = field(default_factory=Guidance)
    known: Known | None = None
    position: int = 0  # evaluations so far
    _rows: list[int] | None = field(default=None, init=False, repr=False)

    @property
    def finished(self) -> bool:
        """Whether every evaluation is done."""
        return self.position == len(self.trajectory.t)

    def rows(self, timesteps: int) -> list[int]:
        """Return how many network rows each evaluation takes, 1 or, with guidance, 2, and 0 for the end."""
        if self._rows is None:
            guided = (self.null is not None and self.guidance.applies(t, timesteps) for t in self.trajectory.t.tolist())
            self._rows = [*(1 + is_guided for is_guided in guided), 0]
        return self._rows


class Batch:
    """Runs that share each network evaluation.

    rows: rows of the network, at least 2. A run takes one row, or two while it is guided.
    shape: (C, h, w) of the latents. take_step: `evaluation.take_step`, or a compiled one.
    Rows are independent and kernels always see the same shape, so a run's result does not depend on the others. A batch
    holds at most `rows` runs. Raises ValueError for too few rows.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        rows: int,
        shape: Sequence[int],
        take_step: TakeStep = evaluation.take_step,
    ) -> None:
        if rows < 2:
            raise ValueError(f"rows: {rows} is not allowed; permitted: at least 2, because a guided image takes two")
        self.model, self.rows, self.device = model, rows, model.device
        self.runs: list[Run] = []  # oldest first
        self._take_step, self._timesteps = take_step, model.diffusion.config.timesteps
        self._wanted_rows, self._has_finished = 0, False
        self._slots: dict[Run, int] = {}  # index of a run's state
        self._free_slots = list(range(rows))  # a heap
        self._state = torch.zeros(rows, 5, *shape, device=self.device)  # see `solvers`
        self._seats = Seats(rows)
        self._table = TrajectoryTable(self.device)
        self._entries: dict[Run, int] = {}  # of a run's first evaluation in the table
        self._noise = NoiseAhead(rows, shape, self.device)
        self._layout = evaluation.Layout(rows, self.device)
        self._laid_out: list[Run] = []  # the runs of the layout; none: it has to be made
        self._noisy: list[Run] = []  # those among them to which any evaluation adds noise
        self._under_way: deque[torch.cuda.Event] = deque()  # ends of the evaluations that the device has not finished

    @property
    def free_rows(self) -> int:
        """Number of network rows that the next step would leave unused."""
        return max(0, self.rows - self._wanted_rows)

    @property
    def finished(self) -> list[Run]:
        """The runs that are finished and have not left, oldest first."""
        return [run for run in self.runs if run.finished] if self._has_finished else []

    def rows_of(self, run: Run) -> int:
        """Return how many network rows a run's next evaluation takes: 0, 1 or 2."""
        return run.rows(self._timesteps)[run.position]

    def total_rows_of(self, run: Run) -> int:
        """Return how many network rows all evaluations of a run take together."""
        return sum(run.rows(self._timesteps))

    def join(self, run: Run) -> None:
        """Add a run, which takes part from the next step on. Raises ValueError if there are `rows` runs already."""
        if not self._free_slots:
            raise ValueError(f"rows: all {self.rows} are taken; step until a run is finished")
        slot = heapq.heappop(self._free_slots)
        self.runs.append(run)
        self._slots[run] = slot
        self._wanted_rows += self.rows_of(run)
        self._enter(run)
        self._laid_out = []
        state = self._state[slot].zero_()
        state[0].copy_(run.start, non_blocking=True)

    def leave(self, run: Run) -> Tensor:
        """Remove a run, finished or not, and return its latent, [C, h, w]."""
        self.runs.remove(run)
        self._wanted_rows -= self.rows_of(run)
        self._laid_out = []
        slot, _ = self._slots.pop(run), self._entries.pop(run)
        heapq.heappush(self._free_slots, slot)
        return self._state[slot, 0].clone()

    def step(self, guider: ImageGuider | None = None) -> Tensor:
        """Evaluate the network once, for the oldest runs that fit into its rows; the others wait.

        guider: moves the estimates towards its targets; the batch's runs must be the rows of its target, in order.
        Returns the estimates of z_0, [rows, C, h, w], each at its run's slot; runs that join an empty batch get slots
        in their order. On a GPU the host does not wait for the answer, and may be one step ahead.
        """
        self._wait_for_device()
        with torch.no_grad():
            selected = self._laid_out or self._lay_out()
            wanted_noise = self._noise_keys()
            for run in selected:
                self._restore_known(run)
            ticket = self._layout.send()
            noise = self._noise.take(wanted_noise).to(self.device, non_blocking=True) if wanted_noise else None
            denoised = self._evaluate(selected, ticket, noise, guider)
            self._move_on(selected)
        if self.device.type == "cuda":
            self._under_way.append(torch.cuda.Event())  # type: ignore[no-untyped-call]  # untyped in torch
            self._under_way[-1].record()
        return denoised

    # -- one evaluation --------------------------------------------------------------------------

    def _wait_for_device(self) -> None:
        """Let the host be at most AHEAD evaluations ahead, so that new runs join soon and buffers can be reused."""
        while len(self._under_way) > AHEAD:
            self._under_way.popleft().synchronize()

    def _lay_out(self) -> list[Run]:
        """Select the oldest runs that fit, assign rows to them, and return them."""
        selected: list[Run] = []
        guided: list[Run] = []
        used = 0
        for run in self.runs:
            rows = self.rows_of(run)
            if used + rows > self.rows:
                break  # a smaller, later run may fit, but must not overtake this one
            used += rows
            if rows:
                selected.append(run)
            if rows == 2:
                guided.append(run)
        wanted = [run.conditions for run in selected]
        assigned = self._seats.assign([*wanted, *(run.null for run in guided if run.null is not None)])
        conditional, null = assigned[: len(selected)], assigned[len(selected) :]
        slots = [self._slots[run] for run in selected]
        self._layout.place(slots, [self._entries[run] + run.position for run in selected], conditional)
        if self.model.is_told_guidance:
            self._layout.tell(slots, [run.guidance.scale for run in selected])
        self._layout.guide(
            [self._slots[run] for run in guided],
            null,
            [run.guidance.scale for run in guided],
            [run.guidance.rescale for run in guided],
        )
        self._laid_out = selected
        self._noisy = [run for run in selected if any(run.trajectory.noisy)]
        return selected

    def _enter(self, run: Run) -> None:
        """Put a run's trajectory into the table, which is made again from the present runs if it is full."""
        try:
            self._entries[run] = self._table.add(run.trajectory)
        except KeyError:
            self._table.rebuild(other.trajectory for other in self.runs)
            self._entries = {other: self._table.add(other.trajectory) for other in self.runs}

    def _noise_keys(self) -> dict[int, Key]:
        """Return which noise the next evaluation of each run in the layout adds, by slot."""
        return {
            self._slots[run]: (run.seed, run.position + 1)
            for run in self._noisy
            if run.position < len(run.trajectory.noisy) and run.trajectory.noisy[run.position]
        }

    def _evaluate(
        self, selected: Sequence[Run], ticket: Tensor, noise: Tensor | None, guider: ImageGuider | None
    ) -> Tensor:
        assert self._seats.conditions is not None
        coefficients = self._table.look_up(ticket[4])
        given = (self.model, self._state, self._seats.conditions, ticket, coefficients, noise, self._layout.rescales)
        if guider is None:
            self._state, denoised = self._take_step(*given)
        else:
            slots = [self._slots[run] for run in selected]
            self._state, denoised = evaluation.take_guided_step(guider, slots, *given)
        return denoised

    def _move_on(self, selected: Sequence[Run]) -> None:
        """Count the evaluation, draw the next one's noise ahead, and keep the layout if the next one has the same."""
        changed = False
        for run in selected:
            rows = run.rows(self._timesteps)
            before, after = rows[run.position], rows[run.position + 1]
            run.position += 1
            if after != before:
                changed = True
                self._wanted_rows += after - before
            if not after:
                self._has_finished = True
                self._restore_known(run)
        self._noise.expect(self._noise_keys())
        if changed:
            self._laid_out = []
        else:
            self._layout.move_on()

    def _restore_known(self, run: Run) -> None:
        """Overwrite the known region of the network's next input with the known latent at the run's noise level."""
        if run.known is None:
            return
        known, mask = run.known.latent, run.known.mask
        if not run.finished:
            noise = transfer(seeded_noise(run.seed, KNOWN_NOISE + run.position, known.shape), self.device).to(known)
            t = transfer(torch.tensor([run.trajectory.t[run.position]], dtype=torch.float64), self.device)
            known = self.model.diffusion.diffuse(known[None], noise[None], t)[0]
        x = self._state[self._slots[run], 0]
        x.copy_(mask * known + (1 - mask) * x)
