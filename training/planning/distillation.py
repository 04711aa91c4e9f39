"""Plans the distillation of a release: its images, its experiment file, and the steps that fit into a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from training.data import built_in, image_set
from training.data.batches import row_generator
from training.data.conditions import request_maker
from training.data.image_set import DESCRIPTION, DataError, ImageSet
from training.data.rows import ImageRows, crop_centres
from training.experiments import compose
from training.experiments.schema import DistillationExperiment
from training.experiments.teachers import load_teacher
from training.model.release import Release
from training.planning.models import Fields
from training.planning.survey import PlanError
from training.planning.timing import time_steps
from training.recipes.distillation import DistillationRecipe
from training.recipes.distillation_loss import DistillationLossConfig, DistillationMethod

FILE = "distillation.yaml"
HEADER = "# Chosen by darkroom distil for {key}, which reads this file again.\n"
DATA_FIELDS = (
    "name", "image_size", "channels", "held_out", "max_bad", "classes", "background", "flip", "crop", "bucket_step",
    "degradation", "masks",
)  # fmt: skip
BATCH = {"cpu": 32, "cuda": 64}
RATE_SHARE, RATE = 0.4, 1e-4  # of the teacher's learning rate; without one
LEAST_STEPS = 50
PREVIEWS = 5


def find_images(teacher: Release, given: str | None, folders: Path = Path("data")) -> str:
    """Return where the images are: those given, a built-in set, or the prepared set that the teacher was trained on.

    folders: among which prepared sets are looked for. Raises PlanError if there are none.
    """
    if given is not None:
        return given if given.startswith("s3://") else str(Path(given).absolute())
    data = teacher.lineage.get("data", {})
    wanted = data.get("fingerprint")
    for folder in sorted(path.parent for path in folders.glob(f"*/{DESCRIPTION}")):
        try:
            if image_set.read(folder).description.fingerprint == wanted:
                return str(folder)
        except DataError:
            continue
    if data.get("name") == "digits":
        return str(folders / "digits")
    if data.get("name") == "shapes":
        return str(folders / f"shapes-{teacher.image_shape[1]}")
    raise PlanError(
        f"--data: {teacher.name} was trained on {data.get('name', 'images that its release does not name')}, and no "
        f"folder in {folders}/ holds that set; give the folder of its images"
    )


def draft(
    teacher: Release, folder: Path, root: str, name: str, method: DistillationMethod = DistillationLossConfig.method
) -> Fields:
    """Return the fields of an experiment without its steps. folder: of the teacher. root: of the images."""
    taught = teacher.lineage.get("experiment", {})
    data: dict[str, Any] = {key: value for key, value in taught.get("data", {}).items() if key in DATA_FIELDS}
    channels, side, _ = teacher.image_shape
    data = {"name": "images", "image_size": side, "channels": channels, **data, "root": root}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = taught.get("optimiser", {}).get("learning_rate")
    return {
        "name": name,
        "output": str(Path("runs") / name),
        "teacher": str(folder.absolute()),
        "steps": 1,
        "batch_size": BATCH[device],
        "encode_each_step": data.get("crop") is not None,
        "data": data,
        "optimiser": {"learning_rate": RATE if rate is None else RATE_SHARE * rate},
        **({} if method == DistillationLossConfig.method else {"loss": {"method": method}}),
    }


def write(path: Path, fields: Fields, key: str) -> None:
    """Write an experiment file. key: what it was chosen for."""
    write_experiment(path, "distillation", fields, HEADER.format(key=key))


def write_experiment(path: Path, recipe: str, fields: Fields, header: str) -> None:
    """Write the file of an experiment that is trained by `recipe`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = fields["data"]["name"] if fields["data"]["name"] in built_in.SETS else "images"
    body = {"defaults": [{"override /data": images}, {"override /recipe": recipe}], **fields}
    path.write_text(header + yaml.safe_dump(body, sort_keys=False, default_flow_style=None))


def is_written(path: Path, key: str) -> bool:
    """Return whether an experiment file was chosen for `key`."""
    return path.is_file() and path.read_text().startswith(HEADER.format(key=key))


def load(path: Path) -> DistillationExperiment:
    """Return the experiment of a file. Raises ExperimentError."""
    found = compose.load(str(path))
    assert isinstance(found, DistillationExperiment)
    return found


def load_draft(fields: Fields) -> DistillationExperiment:
    """Return the experiment of fields. They are not kept: a file is read again as the whole plan. Raises as `load`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        write(path, fields, "a draft")
        return load(path)


def choose_steps(config: DistillationExperiment, images: ImageSet, seconds: float) -> tuple[int, float]:
    """Return how many steps fit into the seconds on this machine, and the seconds of one. Raises PlanError."""
    step = measure_step(config, images)
    steps = int(seconds / step)
    if steps < LEAST_STEPS:
        raise PlanError(
            f"--minutes: {seconds / 60:g} is not allowed; a step takes {step:.1f} s here, and {LEAST_STEPS} steps are "
            f"the least; permitted: at least {LEAST_STEPS * step / 60:.1f}"
        )
    return steps, step


def measure_step(config: DistillationExperiment, images: ImageSet) -> float:
    """Return the seconds of a training step on this machine."""
    teacher, description = load_teacher(Path(config.teacher))
    recipe = DistillationRecipe(
        teacher,
        config.loss,
        config.optimiser,
        steps=1,
        seed=0,
        batch_size=config.batch_size,
        ema_decay=config.ema_decay,
    )
    device = "cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu"
    recipe.to(device)
    recipe.on_fit_start()
    rows = images.rows("train")
    chosen = np.resize(np.asarray(rows), config.batch_size)
    cropped = crop_centres(images, config.data.crop or images.image_size)
    batch = ImageRows(cropped, requests=request_maker(description))(
        chosen, [row_generator(0, 0, i) for i in range(len(chosen))]
    )
    shape = (len(chosen), *recipe.latent_shape(batch))
    drawn = draw(shape, recipe.grids.count, device)
    moments = torch.stack([drawn["eps"], drawn["posterior"]], dim=1)
    given: Mapping[str, Any] = {"moments": moments, "requests": batch["requests"]}
    return time_steps(recipe, device, lambda: recipe.loss(dict(given), drawn))


def draw(shape: Sequence[int], grids: int, device: str) -> dict[str, Tensor]:
    """Return what a step of (R, C, h, w) latents draws: on the device, but for the grids, which are on the CPU."""
    rows = shape[0]
    return {
        "posterior": torch.zeros(shape, device=device), "eps": torch.randn(shape, device=device),
        "share": torch.zeros(rows, device=device), "scale": torch.full((rows,), 2.0, device=device),
        "grid": torch.arange(rows) % grids,
    }  # fmt: skip
