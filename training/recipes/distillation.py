"""Distils a diffusion model to few evaluations of one row each, guidance included."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.model.autoencoder import AutoencoderConfig
from training.model.conditioners import Conditions
from training.model.diffusion import Diffusion
from training.model.guidance import guide
from training.model.latent_diffusion import LatentDiffusion
from training.model.trajectory_table import transfer
from training.model.unet import UNet
from training.recipes import optimiser, progressive
from training.recipes.distillation_loss import DistillationLossConfig
from training.recipes.latent_recipe import LatentRecipe
from training.recipes.optimiser import OptimiserConfig
from training.recipes.randomness import StepDraws
from training.recipes.recipe import Terms
from training.recipes.self_consistency import Grids, Steps, targets

NUMBERS = ("step", "guidance")


class Rows(NamedTuple):
    """What networks are asked about R rows, besides the noisy latents."""

    conditions: Conditions
    null: Conditions
    scale: Tensor  # [R], of the guidance

    def select(self, rows: Tensor) -> "Rows":
        """Return some rows, int64 [S]."""
        return Rows(select(self.conditions, rows), select(self.null, rows), self.scale[rows])


def select(conditions: Conditions, rows: Tensor) -> Conditions:
    """Return the conditions of some rows, int64 [S]."""
    parts = (conditions.tokens, conditions.maps, conditions.embedding)
    return Conditions(*(None if part is None else part[rows] for part in parts))


def make_student(teacher: LatentDiffusion) -> LatentDiffusion:
    """Return a model with the teacher's weights that has step and guidance as inputs and predicts v.

    v is finite where nothing of the data is left, so that one evaluation of pure noise has an answer (Salimans & Ho
    2022, section 4). Under flow matching the answer stays the flow, which is finite too.
    """
    config = teacher.diffusion.config
    unet = UNet(replace(teacher.unet.config, numbers=NUMBERS))
    unet.load_state_dict(teacher.unet.state_dict(), strict=False)  # the numbers' part is new, and zero
    answers = config if config.schedule == "flow" else replace(config, parameterisation="v")
    return LatentDiffusion(teacher.autoencoder, unet, teacher.conditioners, Diffusion(answers))


class DistillationRecipe(LatentRecipe):
    """Trains a student's U-Net on the targets of `self_consistency`; the conditioners and the autoencoder are fixed.

    On the finest grid the target is that of the guided teacher (Meng et al. 2023, eq. 7). On the others it is that of
    the moving average of the student, or with `method: progressive` that of the average as it was when the stage began
    (see `progressive`). The error of z_0 is weighted by max(SNR, 1), at most `snr_cap` (Salimans & Ho 2022,
    section 4). A batch is that of `DiffusionRecipe`.
    """

    def __init__(
        self,
        teacher: LatentDiffusion,
        loss: DistillationLossConfig,
        optimiser_config: OptimiserConfig,
        *,
        steps: int,
        seed: int,
        batch_size: int,
        accumulate: int = 1,
        ema_decay: float = 0.999,
    ) -> None:
        """Raises ValueError for a `finest` that the schedule does not permit."""
        super().__init__(optimiser_config, steps=steps, seed=seed, batch_size=batch_size, accumulate=accumulate)
        self.config, self.ema_decay = loss, ema_decay
        self.grids = Grids(teacher.diffusion, loss.finest)
        student = make_student(teacher)
        self.diffusion = student.diffusion
        self.trained: nn.ModuleDict = nn.ModuleDict({"unet": student.unet}).train()
        self.average: nn.ModuleDict = copy.deepcopy(self.trained).requires_grad_(False)
        if loss.method == "progressive":
            self.frozen: nn.ModuleDict = copy.deepcopy(self.average)  # whose answers are targets; a checkpoint has it
        self.teacher = (teacher.requires_grad_(False).eval(),)  # in a tuple, so that it is neither trained nor saved

    @property
    def student_unet(self) -> UNet:
        """The U-Net that is trained."""
        return cast(UNet, self.trained["unet"])

    def build_optimisers(self) -> Sequence[Optimizer]:
        """Return AdamW over the student's U-Net."""
        return [optimiser.build(self.trained.parameters(), self.optimiser_config)]

    def load_initial(self, release: Path) -> None:
        """Raise ValueError: the student begins as its teacher."""
        raise ValueError("initial: a distillation begins with the weights of its teacher; permitted: null")

    def on_fit_start(self) -> None:
        """Move the teacher and the grids to the device of the recipe."""
        self.teacher[0].to(self.device)
        self.grids = Grids(self.teacher[0].diffusion, self.config.finest, self.device)

    def take_step(self, batch: dict[str, Any], draws: StepDraws) -> Terms:
        """Take one step on this rank's rows."""
        shape = self.latent_shape(batch)
        low, high = self.config.guidance_low, self.config.guidance_high
        drawn = {
            "posterior": draws.normal(*shape),
            "eps": draws.normal(*shape),
            "share": draws.uniform(),
            "scale": low + (high - low) * draws.uniform(),
            "grid": self.begin_step(),
        }
        return self.step_on(batch, drawn)

    def rate_share(self) -> float:
        """Return the learning rate of the next step as a share of its peak; with stages it falls in each of them."""
        if self.config.method == "shortcut":
            return super().rate_share()
        count = self.grids.count
        stage = progressive.steps_of_stage(progressive.stage_at(self.step, self.steps, count), self.steps, count)
        return optimiser.factor(self.optimiser_config, self.step, stage.stop, stage.start)

    def begin_step(self) -> Tensor:
        """Return the grid of each row of a step, int64 [batch_size]. The first step of a stage fixes its targets."""
        if self.config.method == "shortcut":
            return (torch.arange(self.batch_size) + self.step) % self.grids.count  # so that every step costs the same
        if progressive.begins_stage(self.step, self.steps, self.grids.count):
            self.frozen.load_state_dict(self.average.state_dict())
        stage = progressive.stage_at(self.step, self.steps, self.grids.count)
        return progressive.choose_grids(stage, self.step, self.batch_size)

    @property
    def target_unet(self) -> nn.Module:
        """The student's U-Net whose answers are targets, in eval mode."""
        return (self.average if self.config.method == "shortcut" else self.frozen)["unet"].eval()

    @property
    def first_stage_config(self) -> AutoencoderConfig:
        """The configuration of the autoencoder of the latents."""
        return self.teacher[0].autoencoder.config

    def loss(self, rows: dict[str, Any], drawn: dict[str, Tensor]) -> Tensor:
        """Return the loss of rows of a batch, with the random numbers drawn for them."""
        with torch.no_grad():
            if "moments" in rows:
                mean, std = rows["moments"].unbind(1)  # [R, C, h, w] each
            else:
                mean, std = self.teacher[0].autoencoder.moments(rows["image"])
            z0 = mean + std * drawn["posterior"]
            steps = self.grids.draw(transfer(drawn["grid"], self.device), drawn["share"])
            alpha, sigma = self.grids.at(steps.start, z0)
            x = alpha * z0 + sigma * drawn["eps"]
            asked = self.ask(rows["requests"], (mean.shape[2], mean.shape[3]), drawn["scale"])
            target = self.target(x, steps, asked, drawn["grid"])
        answer = self.answer(self.trained["unet"], x, steps, asked)
        weight = (alpha / sigma).square().clamp(1.0, self.config.snr_cap)
        return (weight * (answer - target).square()).mean()

    def ask(self, requests: Sequence[dict[str, Any]], size: tuple[int, int], scale: Tensor) -> Rows:
        """Return the conditions of R requests, and what guidance compares them with."""
        teacher = self.teacher[0]
        conditions, null = (
            cast(Conditions, teacher.conditioners(given, size, teacher.autoencoder.encode))
            for given in (requests, [None] * len(requests))
        )
        if teacher.conditioners.keeps_maps_in_null:
            null = replace(null, maps=conditions.maps)
        return Rows(conditions, null, scale)

    def target(self, x: Tensor, steps: Steps, asked: Rows, grid: Tensor) -> Tensor:
        """Return the estimates of z_0 to which the student's answers are pulled, [R, C, h, w].

        grid: of each row, on the CPU, so that choosing rows does not wait for the device.
        """
        found = torch.empty_like(x)
        for which, network in ((grid == 0, None), (grid > 0, self.target_unet)):
            rows = transfer(which.nonzero()[:, 0], x.device)
            if len(rows):
                some = asked.select(rows)

                def answer(y: Tensor, at: Steps, network: Any = network, some: Rows = some) -> Tensor:
                    return self.answer_of_teacher(y, at, some) if network is None else self.answer(network, y, at, some)

                found[rows] = targets(self.grids, x[rows], steps.select(rows), answer)
        return found

    def answer_of_teacher(self, x: Tensor, steps: Steps, asked: Rows) -> Tensor:
        """Return the guided teacher's estimates of z_0: x [R, C, h, w] -> [R, C, h, w]."""
        teacher, t = self.teacher[0], self.grids.timesteps(steps)
        answer = evaluate(teacher.unet, x, t, asked.conditions)
        if len(teacher.conditioners):
            answer = guide(answer, evaluate(teacher.unet, x, t, asked.null), asked.scale, None)
        return teacher.diffusion.denoise(x, answer, t)

    def answer(self, unet: nn.Module, x: Tensor, steps: Steps, asked: Rows) -> Tensor:
        """Return a student's estimates of z_0 for steps: x [R, C, h, w] -> [R, C, h, w]."""
        t = self.grids.timesteps(steps)
        numbers = torch.stack([self.grids.share(steps), asked.scale], dim=1)  # in the order of NUMBERS
        return self.diffusion.denoise(x, evaluate(unet, x, t, asked.conditions, numbers), t)

    def averaged_model(self) -> LatentDiffusion:
        """Return the averaged student with the teacher's conditioners and autoencoder, in eval mode."""
        teacher, unet = self.teacher[0], cast(UNet, self.average["unet"])
        light = teacher.light_decoder
        return LatentDiffusion(teacher.autoencoder, unet, teacher.conditioners, self.diffusion, light).eval()


def evaluate(unet: nn.Module, x: Tensor, t: Tensor, conditions: Conditions, numbers: Tensor | None = None) -> Tensor:
    """Return the output of a U-Net, [R, C, h, w], in float32."""
    full = x if conditions.maps is None else torch.cat([x, conditions.maps], dim=1)
    output = unet(full, t, conditions.tokens, embedding=conditions.embedding, numbers=numbers)
    return cast(Tensor, output).float()
