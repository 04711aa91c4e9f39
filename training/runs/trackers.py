"""The loggers of a run besides its folder: TensorBoard, MLflow, Weights & Biases, through Lightning.

MLflow and Weights & Biases read their address and their key from the environment (MLFLOW_TRACKING_URI, WANDB_API_KEY
and others), so that neither is in an experiment, a command or a log.
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from training.errors import summarise
from training.experiments.schema import Experiment, ExperimentError, to_plain
from training.lightning import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

EXTRAS = {"mlflow": "mlflow", "wandb": "wandb"}  # the module that each needs, which an extra of the same name installs
ADDRESS = "MLFLOW_TRACKING_URI"
EVERY = 20  # steps between two that are sent over the network
TENSORBOARD = ("tensorboard",)
Scalars = Mapping[str, float]


def names_of(config: Experiment) -> Sequence[str]:
    """Return the loggers of an experiment."""
    return (config.logger,) if isinstance(config.logger, str) else config.logger


def check(config: Experiment) -> None:
    """Raise ExperimentError unless the loggers of an experiment are installed and have an address."""
    for name in names_of(config):
        if name in EXTRAS and importlib.util.find_spec(EXTRAS[name]) is None:
            raise ExperimentError(f"logger: {name} is not installed; install the extra: pip install 'darkroom[{name}]'")
        if name == "mlflow" and not os.environ.get(ADDRESS):
            raise ExperimentError(f"logger: mlflow needs the variable {ADDRESS}, such as http://mlflow:5000")


class Trackers:
    """The loggers of a run. Only the first rank opens them; without `open`, nothing is logged.

    ids: of the runs of MLflow and Weights & Biases to continue, by logger; checkpoints keep them.
    A logger that fails later is left out from then on: a training does not end because a server does.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str] = TENSORBOARD,
        *,
        start: int = 0,
        config: Experiment | None = None,
        ids: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.names, self.start, self.config = folder, names, start, config
        self.ids = dict(ids or {})
        self.loggers: dict[str, Logger] = {}

    def open(self) -> None:
        """Open the loggers. Raises ExperimentError naming one that cannot be opened."""
        for name in self.names:
            try:
                logger = self._make(name)
                _ = cast(Any, logger).experiment  # connects
                if self.config is not None and name in EXTRAS and name not in self.ids:
                    logger.log_hyperparams(to_plain(self.config))
            except Exception as error:
                raise ExperimentError(f"logger: {name} cannot be opened: {summarise(error)}") from None
            self.loggers[name] = logger
            if name in EXTRAS:
                self.ids[name] = str(logger.version)

    def log(self, values: Scalars, step: int) -> None:
        """Log figures of a step."""
        for name in list(self.loggers):
            self._try(name, lambda logger: logger.log_metrics(dict(values), step))

    def log_training(self, values: Scalars, step: int, *, last: bool) -> None:
        """Log figures of a step, of which there is one for each: only every twentieth goes over the network."""
        for name in list(self.loggers):
            if name == "tensorboard" or step % EVERY == 0 or last:
                self._try(name, lambda logger: logger.log_metrics(dict(values), step))

    def log_image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Log an image [height, width, C]."""
        for tracker in list(self.loggers):
            self._try(tracker, lambda logger: _log_image(logger, name, image, step))

    def close(self, *, failed: bool) -> None:
        """Close the loggers."""
        for name in list(self.loggers):
            self._try(name, lambda logger: _close(logger, failed))
        self.loggers = {}

    def _make(self, name: str) -> Logger:
        if name == "tensorboard":
            return TensorBoardLogger(self.folder, name="", version=name, purge_step=self.start + 1)
        run, project = self.folder.name, "darkroom"
        if self.config is not None:
            run, project = self.config.name, self.config.data.name
        known = self.ids.get(name)
        if name == "mlflow":
            return MLFlowLogger(project, run_name=run, tracking_uri=os.environ[ADDRESS], run_id=known)
        return WandbLogger(name=run, project=os.environ.get("WANDB_PROJECT", project), save_dir=self.folder, id=known)

    def _try(self, name: str, act: Any) -> None:
        try:
            act(self.loggers[name])
        except Exception as error:
            print(f"note: logger: {name} failed and is left out from here on: {summarise(error)}", flush=True)
            del self.loggers[name]


def _log_image(logger: Logger, name: str, image: NDArray[np.uint8], step: int) -> None:
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, image, step, dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, image, key=name, step=step)
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [image], step)


def _close(logger: Logger, failed: bool) -> None:
    logger.finalize("failed" if failed else "finished")
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=int(failed))
