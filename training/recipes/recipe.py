"""The base of both recipes: steps, parts of a batch, ranks, and the content of a checkpoint."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from training.lightning import LightningModule
from training.recipes import optimiser
from training.recipes.optimiser import OptimiserConfig
from training.recipes.randomness import StepDraws, seed_dropout

Terms = dict[str, Tensor]


class Recipe(LightningModule):
    """A network and its training, one `training_step` per batch.

    Optimisation is manual, with its own step count: Lightning's global_step counts the steps of every optimiser, so
    schedules that depend on it would change when the discriminator starts.

    batch_size: rows of a step over all ranks. accumulate: number of parts in which each rank processes its rows.
    """

    def __init__(
        self, optimiser_config: OptimiserConfig, *, steps: int, seed: int, batch_size: int, accumulate: int = 1
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.optimiser_config, self.steps, self.seed = optimiser_config, steps, seed
        self.batch_size, self.accumulate = batch_size, accumulate
        self.step = 0  # steps taken so far

    @abstractmethod
    def build_optimisers(self) -> Sequence[Optimizer]:
        """Return the optimisers. Parameter groups may store their peak learning rate as `rate`."""

    @abstractmethod
    def take_step(self, batch: dict[str, Any], draws: StepDraws) -> Terms:
        """Take one step on this rank's rows and return the terms of the loss, means over these rows."""

    @abstractmethod
    def load_initial(self, release: Any) -> None:
        """Load the weights of a release folder. Raises ReleaseError, or ValueError naming the tensors that differ."""

    def configure_optimizers(self) -> Any:
        """Return `build_optimisers` for Lightning; each group stores its peak learning rate as `rate`."""
        optimisers = list(self.build_optimisers())
        for one in optimisers:
            for group in one.param_groups:
                group.setdefault("rate", group["lr"])
        return optimisers

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Terms:
        """Take one step and return the terms of the loss and the learning rate, means over the whole batch."""
        share = self.rate_share()
        for one in self.optimiser_list():
            optimiser.set_rate(one, share)
        terms = self.take_step(batch, StepDraws(self.seed, self.step, self.batch_size, self.device))
        self.step += 1
        means = torch.stack([term.detach().float() for term in terms.values()])
        if dist.is_initialized():
            dist.all_reduce(means)
            means /= dist.get_world_size()
        rate = torch.full((), self.optimiser_config.learning_rate * share, device=means.device)
        return {**dict(zip(terms, means.unbind(), strict=True)), "learning_rate": rate}

    def rate_share(self) -> float:
        """Return the learning rate of the next step as a share of its peak."""
        return optimiser.factor(self.optimiser_config, self.step, self.steps)

    def optimiser_list(self) -> list[Optimizer]:
        """Return the optimisers as a list; Lightning returns a single one without a list."""
        found: Any = self.optimizers(use_pl_optimizer=False)
        return found if isinstance(found, list) else [found]

    def parts(self, batch: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any], slice]]:
        """Yield this rank's rows in `accumulate` parts: index, rows, and their slice of the rows of all ranks."""
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        mine = self.batch_size // ranks
        size = mine // self.accumulate
        for part in range(self.accumulate):
            seed_dropout(self.seed, self.step, rank, part)
            begin = part * size
            rows = {name: values[begin : begin + size] for name, values in batch.items()}
            yield part, rows, slice(rank * mine + begin, rank * mine + begin + size)

    def backward_part(self, part: int, loss: Tensor) -> None:
        """Compute gradients of a part's mean loss. The last part averages them over ranks."""
        wrapped = self.trainer.strategy.model
        last = part == self.accumulate - 1
        stay: AbstractContextManager[None] = nullcontext()
        if not last and isinstance(wrapped, DistributedDataParallel):
            stay = wrapped.no_sync()
        with stay:
            self.manual_backward(loss / self.accumulate)

    def optimise(self, optim: Optimizer) -> None:
        """Clip the gradients, take a step, and clear the gradients."""
        parameters = [parameter for group in optim.param_groups for parameter in group["params"]]
        clip_grad_norm_(parameters, self.optimiser_config.clip_norm)
        optim.step()
        optim.zero_grad()

    # -- checkpoints ------------------------------------------------------------------------------

    def saved_weights(self) -> dict[str, Tensor]:
        """Return the weights and buffers that a checkpoint holds: all but LPIPS, which is fixed."""
        return {name: tensor for name, tensor in self.state_dict().items() if ".perceptual." not in name}

    def load_saved_weights(self, weights: dict[str, Tensor]) -> None:
        """Load the result of `saved_weights`. Raises RuntimeError for other names or shapes."""
        fixed = {name: tensor for name, tensor in self.state_dict().items() if ".perceptual." in name}
        self.load_state_dict({**weights, **fixed})


def mean_terms(parts: Sequence[Terms]) -> Terms:
    """Return the mean of each term over the parts of a batch."""
    return {name: torch.stack([part[name].detach() for part in parts]).mean() for name in parts[0]}


def load_weights(module: nn.Module, load: Callable[[], dict[str, Tensor]], field: str) -> None:
    """Load weights strictly. Raises ValueError naming the field and the first tensors that differ."""
    weights, own = load(), module.state_dict()
    missing, more = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{name} is {list(weights[name].shape)}, not {list(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    mistakes = [f"lacks {name}" for name in missing] + [f"also has {name}" for name in more] + sorted(shapes)
    if mistakes:
        raise ValueError(f"{field}: its weights do not fit this experiment's model: {', '.join(mistakes[:3])}"
                         f"{f' and {len(mistakes) - 3} more' if len(mistakes) > 3 else ''}")  # fmt: skip
    module.load_state_dict(weights)
