"""Check and resize images: `python -m training.prepare data=images data.root=PATH ...`.

Training prepares its images itself if needed. This command finds what is wrong with them before a GPU is rented.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from training.commands import run_command
from training.data import built_in, image_set, pointer
from training.data.image_set import DESCRIPTION, DataError, ImageSet
from training.experiments import compose
from training.experiments.schema import DataConfig, ExperimentError

if TYPE_CHECKING:
    from training.data.own_images.prepare import Settings


def images(config: DataConfig) -> ImageSet:
    """Return the image set at `data.root`, prepared first if needed. Raises DataError or ExperimentError."""
    root = Path(config.root)
    if is_prepared(config.root):
        found = image_set.read(root)
    elif config.name in built_in.SETS:
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            raise DataError(describe_folder(root, config.name))
        found = built_in.prepare(config.name, root, image_size=config.image_size)
    else:
        from training.data.own_images.prepare import prepare_once
        from training.data.own_images.probe import check_sizes

        settings = own_settings(config)
        folder = prepared_folder(config)
        if not is_prepared(str(folder)):
            check_sizes(config.root, config.image_size, config.max_bad)
        found = prepare_once(config.root, folder, settings)
    if (config.bucket_step is None) != (found.whole is None):
        has = "squares only" if found.whole is None else "whole images"
        raise ExperimentError(f"data.bucket_step: {config.bucket_step}; the prepared images in {root} are {has}")
    for field, configured, actual in (
        ("data.image_size", config.image_size, found.image_size),
        ("data.channels", config.channels, found.channels),
        ("data.classes", config.classes, found.description.classes),
    ):
        if configured is not None and configured != actual:
            raise ExperimentError(f"{field}: {configured}; the prepared images in {root} have {actual}")
    return found


def describe_folder(root: Path, name: str) -> str:
    """Return why a folder cannot hold the built-in set `name`."""
    from training.data.own_images.names import is_image

    if root.is_dir() and any(is_image(path.name) for path in root.rglob("*")):
        return f"data.root: {root} holds no image set {name}, but images of your own; to read them, add data=images"
    return f"data.root: {root} holds no image set; give another folder, or remove it"


def is_prepared(root: str) -> bool:
    """Return whether a folder holds a prepared image set, or points to one."""
    return (pointer.resolve(Path(root)) / DESCRIPTION).is_file()


def own_settings(config: DataConfig) -> "Settings":
    """Return how the user's own images are prepared."""
    from training.data.own_images.prepare import Settings

    return Settings(
        image_size=config.image_size,
        channels=config.channels,
        held_out=config.held_out,
        max_bad=config.max_bad,
        background=config.background,
        name=config.name,
        bucket_step=config.bucket_step,
        classes=config.classes,
    )


def prepared_folder(config: DataConfig) -> Path:
    """Return the folder of the set that is prepared from the user's own images.

    Its name ends with a hash of the listing of the images and of the settings, so that two folders called train have
    a set each. Raises DataError if there are no images.
    """
    if config.prepared is not None:
        return Path(config.prepared)
    from training.data.own_images.prepare import source_stamp

    part = config.root.rstrip("/").rpartition("/")[2].split("*")[0].removesuffix(".tar").strip(".") or config.name
    return Path(f"data/{part}-{config.image_size}-{source_stamp(config.root, own_settings(config))[:8]}")


def set_folder(config: DataConfig) -> Path:
    """Return the folder of the image set: the images themselves if they are prepared, else what is prepared of them."""
    return Path(config.root) if is_prepared(config.root) else prepared_folder(config)


def run(overrides: Sequence[str], output: Path | None = None) -> ImageSet:
    """Prepare the set that overrides such as data=images and data.root=PATH name, in `output` if that is given.

    If the set is prepared already, or `data.prepared` names its folder, it stays there and `output` points to it.
    Raises DataError or ExperimentError.
    """
    for override in overrides:
        if not re.match(r"[+~]*data[.=]", override):
            raise ExperimentError(f"{override!r} is not a data override; permitted: data=NAME and data.FIELD=VALUE")
    config = compose.data(overrides)
    if output is None:
        return images(config)
    if config.name in built_in.SETS:
        return images(replace(config, root=str(output)))
    if config.prepared is None and not is_prepared(config.root):
        return images(replace(config, prepared=str(output)))
    found = images(config)
    pointer.point(output, set_folder(config))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="python -m training.prepare", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "overrides", nargs="*", metavar="data.field=value", help="data=digits, shapes or images; fields to change"
    )
    parser.add_argument("--output", type=Path, help="folder of the prepared set")
    parsed = parser.parse_intermixed_args(arguments)

    def command() -> None:
        found = run(parsed.overrides, parsed.output)
        about = found.description
        print(f"{about.name}: {about.train_count} training images, {about.count - about.train_count} held out, "
              f"{found.channels}x{found.image_size}x{found.image_size}, sha256 {about.fingerprint[:12]}")  # fmt: skip

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
