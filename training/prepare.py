"""The image set of an experiment, ready to train on."""

from pathlib import Path

from training.data import built_in, image_set
from training.data.image_set import DESCRIPTION, DataError, ImageSet
from training.experiment import DataConfig, ExperimentError


def images(config: DataConfig) -> ImageSet:
    """The prepared set that `data.root` is, or what is made of the pictures there.

    Raises DataError or ExperimentError.
    """
    root = Path(config.root)
    if (root / DESCRIPTION).is_file():
        found = image_set.read(root)
    elif config.name in built_in.SETS:
        if root.exists():
            raise DataError(f"data.root: {root} holds no image set; give another folder, or remove it")
        found = built_in.prepare(config.name, root, image_size=config.image_size)
    else:
        from training.data import own_images

        part = config.root.rstrip("/").rpartition("/")[2].split("*")[0].removesuffix(".tar") or config.name
        target = Path(config.prepared or f"data/{part}-{config.image_size}")
        found = own_images.prepared(
            config.root, target, image_size=config.image_size, channels=config.channels,
            held_out=config.held_out, max_bad=config.max_bad, name=config.name,
        )  # fmt: skip
    for field, asked, has in (
        ("data.image_size", config.image_size, found.image_size),
        ("data.channels", config.channels, found.channels),
    ):
        if asked != has:
            raise ExperimentError(f"{field}: {asked}; the prepared images in {root} have {has}")
    return found
