"""Whole training steps side by side: `python -m tests.benchmarks.training_step [--batch 8] [--repeats 9]`.

1. Darkroom's step, from the loader through the optimiser to the moving average, within Lightning's loop, compared with
   the inner loop of diffusers' text-to-image training script on the same network with the same weights: noise, U-Net,
   mean squared error, backward, clipping, AdamW, learning rate, moving average. They alternate on the same machine.
2. Darkroom's step from latents that were encoded once, compared with the step that encodes in the loop.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.benchmarks.unet import CONFIG, TOKENS, pair
from training.data.batches import Batches, keep_batch
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners import Conditioners
from training.model.conditioners.token_ids import TokenIdsConditioner
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.latent_diffusion import LatentDiffusion
from training.recipes.diffusion import DiffusionRecipe
from training.recipes.optimiser import OptimiserConfig

OPTIMISER = OptimiserConfig(1e-5, (0.9, 0.999), 1e-2, warmup_steps=0, clip_norm=1.0, schedule="constant")
ROWS = 64
UNCOUNTED = 2


class FixedTokens(TokenIdsConditioner):
    """Tokens that were computed before, as those of a frozen text encoder in the script."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__(vocabulary=1, length=1, width=1, depth=1, heads=1, head_width=1)
        self.tokens = tokens
        self.requires_grad_(False)

    def embed(self, values: Sequence[Any]) -> Tensor:
        """Return the same tokens for every value."""
        return self.tokens[: len(values)]


def diffusers_step(network: nn.Module, batch: int, tokens: Tensor) -> Callable[[Tensor], None]:
    """Return one step of the script on latents [R, 4, 32, 32]."""
    scheduler = DDPMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-5, weight_decay=1e-2)
    rate = get_scheduler("constant", optimiser)
    average = EMAModel(network.parameters(), model_cls=type(network), model_config=network.config)

    def step(latents: Tensor) -> None:
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (batch,))
        answer = network(scheduler.add_noise(latents, noise, t), t, tokens[:batch]).sample
        nn.functional.mse_loss(answer.float(), noise.float(), reduction="mean").backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rate.step()
        optimiser.zero_grad()
        average.step(network.parameters())

    return step


class Clock(Callback):
    """Times the steps of the trainer, and of another function that runs after each."""

    def __init__(self, other: Callable[[], None] = lambda: None) -> None:
        self.other, self.ours, self.others = other, [], []  # type: ignore[var-annotated]
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
        """Time from the end of one step to the end of the next, including loading."""
        self.ours.append(time.perf_counter() - self.began)
        start = time.perf_counter()
        self.other()
        self.began = time.perf_counter()
        self.others.append(self.began - start)


def run(recipe: DiffusionRecipe, read: Any, batch: int, steps: int, clock: Clock) -> float:
    """Return the median seconds of a step."""
    batches = Batches(read, count=ROWS, batch_size=batch, seed=0, steps=steps)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[clock], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(recipe, DataLoader(batches, batch_size=None, sampler=range(steps), collate_fn=keep_batch))
    return statistics.median(clock.ours[UNCOUNTED:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--encoder-channels", type=int, default=128, help="128 is the paper's first stage")
    options = parser.parse_args(arguments)
    steps, batch = options.repeats + UNCOUNTED, options.batch
    ours, theirs = pair(torch.device("cpu"), torch.float32)
    theirs.train()
    tokens = torch.randn(ROWS, TOKENS, CONFIG.context_width or 0)
    latents, images = torch.randn(ROWS, 1, 2, 4, 32, 32), torch.rand(ROWS, 3, 256, 256) * 2 - 1
    torch.manual_seed(0)
    autoencoder = Autoencoder(
        AutoencoderConfig(latent_channels=4, multipliers=(1, 2, 4, 4), channels=options.encoder_channels)
    ).eval()

    def recipe() -> DiffusionRecipe:
        conditioners = Conditioners({"caption": FixedTokens(tokens)})
        model = LatentDiffusion(autoencoder, ours, conditioners, Diffusion(DiffusionConfig()))
        return DiffusionRecipe(model, OPTIMISER, steps=steps, seed=0, batch_size=batch, condition_dropout=0.0)

    def encoded(rows: Any, generators: Any) -> dict[str, Any]:
        return {"moments": latents[torch.from_numpy(rows), 0], "requests": [{"caption": []} for _ in rows]}

    def pictures(rows: Any, generators: Any) -> dict[str, Any]:
        return {"image": images[torch.from_numpy(rows)], "requests": [{"caption": []} for _ in rows]}

    step = diffusers_step(theirs, batch, tokens)
    clock = Clock(lambda: step(latents[:batch, 0, 0]))
    first = run(recipe(), encoded, batch, steps, clock)
    second = statistics.median(clock.others[UNCOUNTED:])
    with_encoder = run(recipe(), pictures, batch, steps, Clock())
    again = run(recipe(), encoded, batch, steps, Clock())
    table = Table(title=f"25.4M parameters, batch {batch}, cpu, fp32, {torch.get_num_threads()} threads, "
                        f"median of {options.repeats}")  # fmt: skip
    for column in ("", "samples/s", "", "samples/s", "ratio"):
        table.add_column(column)
    for name, seconds, other, others in (
        ("Darkroom", first, "diffusers' script", second),
        ("from latents", again, "encoder in the loop, 256x256", with_encoder),
    ):
        table.add_row(name, f"{batch / seconds:.2f}", other, f"{batch / others:.2f}", f"{others / seconds:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
