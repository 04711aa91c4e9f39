"""Many sampling runs in one batch, each with its own solver, steps, guidance and conditions.

A `Run` is one image on its way. A `Batch` advances its runs by one network evaluation at a time; runs join and
leave at every step, and the network always sees the same number of rows, so a run never depends on its company.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from training.model.guidance import Guidance, ImageGuider, guided
from training.model.latent_diffusion import LatentDiffusion, Prepared
from training.model.noise import seeded_noise
from training.model.solver_step import advance
from training.model.solvers import Trajectory

KNOWN_NOISE = 2**32  # noise of the known region: the same seed, indices that no evaluation has


@dataclass(frozen=True)
class Known:
    """What is already there: the latent z_0 [C, h, w], and the mask [1, h, w], 1 where it is kept."""

    latent: Tensor
    mask: Tensor


@dataclass(eq=False)
class Run:
    """One image: all it depends on, and where it stands."""

    seed: int
    trajectory: Trajectory
    start: Tensor  # [C, h, w], what the first evaluation sees
    conditions: Prepared  # one row
    null: Prepared | None = None  # one row; None where the model has no condition
    guidance: Guidance = field(default_factory=Guidance)
    known: Known | None = None
    owner: Any = None
    position: int = 0  # evaluations done

    @property
    def finished(self) -> bool:
        """Whether every evaluation is done."""
        return self.position == len(self.trajectory)


class Batch:
    """Runs that share each network evaluation.

    rows: rows of the network, at least 2; a run takes one, or two where it is guided. A run's result does not depend
    on the others: rows are independent, and kernels see one shape. shape: (C, h, w) of the latents.
    """

    def __init__(self, model: LatentDiffusion, *, rows: int, shape: Sequence[int]) -> None:
        if rows < 2:
            raise ValueError(f"rows: {rows} is not allowed; permitted: at least 2, for a guided image takes two")
        self.model, self.rows, self.device = model, rows, model.device
        self.runs: list[Run] = []  # oldest first
        self._slots: dict[Run, int] = {}  # where a run's state lies
        self._state = torch.zeros(rows, 5, *shape, device=self.device)
        self._conditions: Prepared | None = None  # of each network row
        self._occupants: list[Prepared | None] = [None] * rows

    @property
    def free_rows(self) -> int:
        """Network rows that the next step would leave empty."""
        return max(0, self.rows - sum(self.rows_of(run) for run in self.runs))

    def rows_of(self, run: Run) -> int:
        """Network rows that a run's next evaluation takes."""
        return 0 if run.finished else 1 + self._guided(run)

    def join(self, run: Run) -> None:
        """Let a run take part from the next step on. Raises ValueError when every place is taken."""
        taken = set(self._slots.values())
        free = next((slot for slot in range(self.rows) if slot not in taken), None)
        if free is None:
            raise ValueError(f"rows: all {self.rows} are taken; step until a run is finished")
        self.runs.append(run)
        self._slots[run] = free
        self._state[free] = 0
        self._state[free, 0] = run.start

    def leave(self, run: Run) -> Tensor:
        """Take a run out, finished or not: its latent, [C, h, w]."""
        self.runs.remove(run)
        return self._state[self._slots.pop(run), 0].clone()

    def step(self, guider: ImageGuider | None = None) -> Tensor:
        """One evaluation for the oldest runs that fit; the others wait.

        guider: only where the batch's runs are the rows of its target. Returns the estimates of z_0, [rows, C, h, w],
        at the slots of the runs.
        """
        chosen = self._chosen()
        with torch.no_grad():
            for run in chosen:
                self._keep_known(run)
            layout = self._layout(chosen)
            x = self._state[:, 0]  # [slots, C, h, w]
            if guider is None:
                denoised = self._denoise(x, layout)
            else:
                denoised = self._denoise_towards(guider, x, layout, [self._slots[run] for run in chosen])
            denoised[[slot for slot, row in enumerate(layout.conditional) if row is None]] = 0  # of nobody: maybe NaN
            A = torch.eye(5, 7, dtype=torch.float64).repeat(self.rows, 1, 1)  # who waits stays as he is
            noise = torch.zeros(x.shape)
            for run in chosen:
                slot, i = self._slots[run], run.position
                A[slot] = torch.from_numpy(run.trajectory.A[i])
                if run.trajectory.noisy(i):
                    noise[slot] = seeded_noise(run.seed, i + 1, x.shape[1:])
            self._state = advance(self._state, denoised, noise.to(self.device), A.to(self.device, torch.float32))
            for run in chosen:
                run.position += 1
                if run.finished:
                    self._keep_known(run)
        return denoised

    # -- one evaluation --------------------------------------------------------------------------

    def _chosen(self) -> list[Run]:
        chosen, rows = [], 0
        for run in self.runs:
            if run.finished:
                continue
            if rows + self.rows_of(run) > self.rows:
                break  # not skipped: a run never waits for a later one
            chosen.append(run)
            rows += self.rows_of(run)
        return chosen

    def _guided(self, run: Run) -> bool:
        if run.null is None or run.finished:
            return False
        return run.guidance.applies(float(run.trajectory.t[run.position]), self.model.diffusion.config.timesteps)

    def _layout(self, chosen: Sequence[Run]) -> "Layout":
        """Who sits in which network row. Conditions are written only where a row's occupant changes."""
        layout = Layout.empty(self.rows)
        wanted = [(run, run.conditions, layout.conditional) for run in chosen]
        wanted += [(run, run.null, layout.null) for run in chosen if run.null is not None and self._guided(run)]
        free = set(range(self.rows))
        for newcomers in (False, True):  # who sat in a row before sits there again
            for run, conditions, seats in wanted:
                slot = self._slots[run]
                if seats[slot] is not None:
                    continue
                row = next((r for r in free if newcomers or self._occupants[r] is conditions), None)
                if row is None:
                    continue
                free.remove(row)
                if newcomers:
                    self._write(row, conditions)
                layout.source[row], layout.t[row], seats[slot] = slot, float(run.trajectory.t[run.position]), row
        for run in chosen:
            if self._guided(run):
                layout.scale[self._slots[run]] = run.guidance.scale
                layout.rescale[self._slots[run]] = run.guidance.rescale
        return layout

    def _write(self, row: int, conditions: Prepared) -> None:
        self._occupants[row] = conditions
        if self._conditions is None:
            empty = (None if part is None else part.new_zeros(self.rows, *part.shape) for part in conditions)
            self._conditions = Prepared(*empty)
        for whole, part in zip(self._conditions, conditions, strict=True):
            if whole is not None and part is not None:
                whole[row] = part

    def _denoise(self, x: Tensor, layout: "Layout") -> Tensor:
        """x at the slots [rows, C, h, w] -> the guided estimates of z_0 there."""
        conditional = [row or 0 for row in layout.conditional]  # an empty slot reads any row; its answer is unused
        null = [other if row is None else row for row, other in zip(layout.null, conditional, strict=True)]
        index = torch.tensor([layout.source, conditional, null]).to(self.device)
        t = torch.tensor(layout.t, dtype=torch.float64).to(self.device)
        scale, rescale = torch.tensor([layout.scale, layout.rescale]).to(self.device)
        assert self._conditions is not None
        answers = self.model.predict(x[index[0]], t, self._conditions)
        answer = guided(answers[index[1]], answers[index[2]], scale, rescale)
        return self.model.diffusion.denoised(x, answer, t[index[1]])

    def _denoise_towards(self, guider: ImageGuider, x: Tensor, layout: "Layout", slots: list[int]) -> Tensor:
        """The same, moved by a guider: z_0 + (sigma^2 / alpha) grad log p(y | z_t)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised = self._denoise(x, layout)
            likelihood = guider.log_likelihood(self.model.autoencoder, denoised[slots])
            (gradient,) = torch.autograd.grad(likelihood.sum(), x)
        t = torch.tensor([layout.t[row or 0] for row in layout.conditional], dtype=torch.float64).to(self.device)
        alpha, sigma = self.model.diffusion.at(t, x)
        return (denoised + sigma.square() / alpha * gradient).detach()

    def _keep_known(self, run: Run) -> None:
        """Put the known region, at the run's present noise level, into what the network sees next."""
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
    """Who reads and answers what in one evaluation."""

    source: list[int]  # [rows], the slot that a network row reads
    t: list[float]  # [rows]
    conditional: list[int | None]  # [slots], the network row of its conditional answer
    null: list[int | None]  # [slots], and of its null answer
    scale: list[float]  # [slots]
    rescale: list[float]  # [slots]

    @classmethod
    def empty(cls, rows: int) -> "Layout":
        """Nobody anywhere."""
        return cls([0] * rows, [0.0] * rows, [None] * rows, [None] * rows, [1.0] * rows, [0.0] * rows)
