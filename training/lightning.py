"""Lightning, imported without what no training needs.

Lightning imports torchmetrics, which imports transformers for scores of texts, matplotlib's pyplot for drawings of
metrics and SciPy's signal processing for scores of sounds, where they are installed. They take more than two seconds of
CPU time of each process.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_utilities.core import imports
from lightning_utilities.core.imports import RequirementCache

HIDDEN = ("transformers", "matplotlib", "scipy")


@contextmanager
def _hidden() -> Iterator[None]:
    """Let Lightning and torchmetrics take the packages for ones that are not installed."""
    is_installed, is_available = RequirementCache.__bool__, imports.package_available

    def is_shown(self: RequirementCache) -> bool:
        return not (self.requirement or "").startswith(HIDDEN) and is_installed(self)

    RequirementCache.__bool__ = is_shown  # type: ignore[method-assign]
    imports.package_available = lambda name: name not in HIDDEN and is_available(name)  # type: ignore[assignment]
    try:
        yield
    finally:
        RequirementCache.__bool__ = is_installed  # type: ignore[method-assign]
        imports.package_available = is_available


with _hidden():
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
    from lightning.pytorch.strategies import DDPStrategy

__all__ = [
    "Callback", "DDPStrategy", "LightningModule", "Logger", "MLFlowLogger", "TensorBoardLogger", "Trainer",
    "WandbLogger",
]  # fmt: skip
