"""Lightning, imported without transformers.

Lightning imports torchmetrics, which imports transformers if that is installed, for scores of texts that no training
computes. It takes a second of CPU time of each process.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_utilities.core.imports import RequirementCache


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let Lightning and torchmetrics take a package for one that is not installed."""
    is_installed = RequirementCache.__bool__

    def is_shown(self: RequirementCache) -> bool:
        return not (self.requirement or "").startswith(package) and is_installed(self)

    RequirementCache.__bool__ = is_shown  # type: ignore[method-assign]
    try:
        yield
    finally:
        RequirementCache.__bool__ = is_installed  # type: ignore[method-assign]


with _hidden("transformers"):
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
    from lightning.pytorch.strategies import DDPStrategy

__all__ = [
    "Callback", "DDPStrategy", "LightningModule", "Logger", "MLFlowLogger", "TensorBoardLogger", "Trainer",
    "WandbLogger",
]  # fmt: skip
