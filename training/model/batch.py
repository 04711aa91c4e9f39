"""Sampling runs that share network evaluations, each with its own solver, steps, guidance and conditions.

A `Run` samples one image. A `Batch` advances its runs by one network evaluation at a time; runs join and leave
between evaluations. The network always sees the same number of rows, so a run's result never depends on the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.model.guidance import Guidance, ImageGuider, guide
from training.model.latent_diffusion import LatentDiffusion, Prepared
from training.model.noise import seeded_noise
from training.model.seats import Seats
from training.model.solver_step import advance
from training.model.solvers import Trajectory

KNOWN_NOISE = 2**32  # first index of the noise of a known region; those of evaluations are smaller


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

    @property
    def finished(self) -> bool:
        """Whether every evaluation is done."""
        return self.position == len(self.trajectory)


class Batch:
    """Runs that share each network evaluation.

    rows: rows of the network, at least 2. A run takes one row, or two while it is guided.
    shape: (C, h, w) of the latents.
    Rows are independent and kernels always see the same shape, so a run's result does not depend on the others. A batch
    holds at most `rows` runs. Raises ValueError for too few rows.
    """

    def __init__(self, model: LatentDiffusion, *, rows: int, shape: Sequence[int]) -> None:
        if rows < 2:
            raise ValueError(f"rows: {rows} is not allowed; permitted: at least 2, because a guided image takes two")
        self.model, self.rows, self.device = model, rows, model.device
        self.runs: list[Run] = []  # oldest first
        self._slots: dict[Run, int] = {}  # index of a run's state
        self._state = torch.zeros(rows, 5, *shape, device=self.device)  # see `solvers`
        self._seats = Seats(rows)

    @property
    def free_rows(self) -> int:
        """Number of network rows that the next step would leave unused."""
        return max(0, self.rows - sum(self.rows_of(run) for run in self.runs))

    def rows_of(self, run: Run) -> int:
        """Return how many network rows a run's next evaluation takes: 0, 1 or 2."""
        return 0 if run.finished else 1 + self._is_guided(run)

    def join(self, run: Run) -> None:
        """Add a run, which takes part from the next step on. Raises ValueError if there are `rows` runs already."""
        used = set(self._slots.values())
        slot = next((slot for slot in range(self.rows) if slot not in used), None)
        if slot is None:
            raise ValueError(f"rows: all {self.rows} are taken; step until a run is finished")
        self.runs.append(run)
        self._slots[run] = slot
        self._state[slot] = 0
        self._state[slot, 0] = run.start

    def leave(self, run: Run) -> Tensor:
        """Remove a run, finished or not, and return its latent, [C, h, w]."""
        self.runs.remove(run)
        return self._state[self._slots.pop(run), 0].clone()

    def step(self, guider: ImageGuider | None = None) -> Tensor:
        """Evaluate the network once, for the oldest runs that fit into its rows; the others wait.

        guider: moves the estimates towards its targets; the batch's runs must be the rows of its target, in order.
        Returns the estimates of z_0, [rows, C, h, w], each at its run's slot; runs that join an empty batch get slots
        in their order.
        """
        selected = self._select_runs()
        with torch.no_grad():
            for run in selected:
                self._restore_known(run)
            layout = self._lay_out(selected)
            x = self._state[:, 0]  # [slots, C, h, w]
            if guider is None:
                denoised = self._denoise(x, layout)
            else:
                denoised = self._denoise_towards(guider, x, layout, [self._slots[run] for run in selected])
            unused = [slot for slot, row in enumerate(layout.conditional) if row is None]
            denoised[unused] = 0  # such a slot read another run's answer, which may be NaN
            A = torch.eye(5, 7, dtype=torch.float64).repeat(self.rows, 1, 1)  # identity: a waiting run stays
            noise = torch.zeros(x.shape)
            for run in selected:
                slot, i = self._slots[run], run.position
                A[slot] = torch.from_numpy(run.trajectory.A[i])
                if run.trajectory.adds_noise(i):
                    noise[slot] = seeded_noise(run.seed, i + 1, x.shape[1:])
            self._state = advance(self._state, denoised, noise.to(self.device), A.to(self.device, torch.float32))
            for run in selected:
                run.position += 1
                if run.finished:
                    self._restore_known(run)
        return denoised

    # -- one evaluation --------------------------------------------------------------------------

    def _select_runs(self) -> list[Run]:
        selected, rows = [], 0
        for run in self.runs:
            if run.finished:
                continue
            if rows + self.rows_of(run) > self.rows:
                break  # a smaller, later run may fit, but must not overtake this one
            selected.append(run)
            rows += self.rows_of(run)
        return selected

    def _is_guided(self, run: Run) -> bool:
        if run.null is None or run.finished:
            return False
        return run.guidance.applies(float(run.trajectory.t[run.position]), self.model.diffusion.config.timesteps)

    def _lay_out(self, selected: Sequence[Run]) -> "Layout":
        layout = Layout.empty(self.rows)
        wanted = [(run, run.conditions, layout.conditional) for run in selected]
        wanted += [(run, run.null, layout.null) for run in selected if run.null is not None and self._is_guided(run)]
        rows = self._seats.assign([conditions for _, conditions, _ in wanted])
        for (run, _, answers), row in zip(wanted, rows, strict=True):
            slot = self._slots[run]
            layout.source[row], layout.t[row], answers[slot] = slot, float(run.trajectory.t[run.position]), row
        for run in selected:
            if self._is_guided(run):
                layout.scale[self._slots[run]] = run.guidance.scale
                layout.rescale[self._slots[run]] = run.guidance.rescale
        return layout

    def _denoise(self, x: Tensor, layout: "Layout") -> Tensor:
        """Return the guided estimates of z_0 for x: [slots, C, h, w] -> [slots, C, h, w]."""
        conditional = [row or 0 for row in layout.conditional]  # an unused slot reads any row
        null = [other if row is None else row for row, other in zip(layout.null, conditional, strict=True)]
        index = torch.tensor([layout.source, conditional, null]).to(self.device)
        t = torch.tensor(layout.t, dtype=torch.float64).to(self.device)
        scale, rescale = torch.tensor([layout.scale, layout.rescale]).to(self.device)
        assert self._seats.conditions is not None
        outputs = self.model.predict(x[index[0]], t, self._seats.conditions)
        output = guide(outputs[index[1]], outputs[index[2]], scale, rescale)
        return self.model.diffusion.denoise(x, output, t[index[1]])

    def _denoise_towards(self, guider: ImageGuider, x: Tensor, layout: "Layout", slots: list[int]) -> Tensor:
        """Return the estimates of z_0, moved by the guider: z_0 + (sigma^2 / alpha) grad log p(y | z_t)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised = self._denoise(x, layout)
            likelihood = guider.log_likelihood(self.model.autoencoder, denoised[slots])
            (gradient,) = torch.autograd.grad(likelihood.sum(), x)
        t = torch.tensor([layout.t[row or 0] for row in layout.conditional], dtype=torch.float64).to(self.device)
        alpha, sigma = self.model.diffusion.alpha_sigma(t, x)
        return (denoised + sigma.square() / alpha * gradient).detach()

    def _restore_known(self, run: Run) -> None:
        """Overwrite the known region of the network's next input with the known latent at the run's noise level."""
        if run.known is None:
            return
        known, mask = run.known.latent, run.known.mask
        if not run.finished:
            noise = seeded_noise(run.seed, KNOWN_NOISE + run.position, known.shape).to(known)
            t = torch.tensor([run.trajectory.t[run.position]], dtype=torch.float64, device=known.device)
            known = self.model.diffusion.diffuse(known[None], noise[None], t)[0]
        x = self._state[self._slots[run], 0]
        x.copy_(mask * known + (1 - mask) * x)


@dataclass(frozen=True)
class Layout:
    """Which slot each network row reads in one evaluation, and which rows answer for each slot."""

    source: list[int]  # [rows], the slot that a row reads
    t: list[float]  # [rows], the timestep
    conditional: list[int | None]  # [slots], the row of the conditional answer; None if the slot takes no part
    null: list[int | None]  # [slots], the row of the null answer; None without guidance
    scale: list[float]  # [slots], see `Guidance`
    rescale: list[float]  # [slots]

    @classmethod
    def empty(cls, rows: int) -> "Layout":
        """Return a layout without any run."""
        return cls([0] * rows, [0.0] * rows, [None] * rows, [None] * rows, [1.0] * rows, [0.0] * rows)
