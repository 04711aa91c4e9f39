"""Check images and bring them to size: `python -m training.prepare data=images data.root=PATH ...`.

Training does so itself where it is not done; alone it tells what is wrong with a set before a GPU is paid for.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from training.data import built_in, image_set, pointer
from training.data.image_set import DESCRIPTION, DataError, ImageSet
from training.experiments import compose
from training.experiments.schema import DataConfig, ExperimentError


def images(config: DataConfig) -> ImageSet:
    """The prepared set that `data.root` is, or what is made of the pictures there.

    Raises DataError or ExperimentError.
    """
    root = Path(config.root)
    if is_prepared(config.root):
        found = image_set.read(root)
    elif config.name in built_in.SETS:
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            raise DataError(f"data.root: {root} holds no image set; give another folder, or remove it")
        found = built_in.prepare(config.name, root, image_size=config.image_size)
    else:
        from training.data.own_images import prepare

        found = prepare.prepared(
            config.root, folder(config), image_size=config.image_size, channels=config.channels,
            held_out=config.held_out, max_bad=config.max_bad, name=config.name,
        )  # fmt: skip
    for field, asked, has in (
        ("data.image_size", config.image_size, found.image_size),
        ("data.channels", config.channels, found.channels),
    ):
        if asked != has:
            raise ExperimentError(f"{field}: {asked}; the prepared images in {root} have {has}")
    return found


def is_prepared(root: str) -> bool:
    """Whether there is a prepared set in a folder, or one that it stands for."""
    return (pointer.followed(Path(root)) / DESCRIPTION).is_file()


def folder(config: DataConfig) -> Path:
    """Where the prepared set of own pictures goes."""
    if config.prepared is not None:
        return Path(config.prepared)
    part = config.root.rstrip("/").rpartition("/")[2].split("*")[0].removesuffix(".tar") or config.name
    return Path(f"data/{part}-{config.image_size}")


def run(overrides: Sequence[str], output: Path | None = None) -> ImageSet:
    """Prepare the set that overrides such as data=images, data.root=PATH tell, under `output` where it is given.

    Own pictures that are prepared already, or have a place of their own (`data.prepared`), stay there; `output` then
    stands for it. Raises DataError or ExperimentError.
    """
    for override in overrides:
        if not re.match(r"[+~]*data[.=]", override):
            raise ExperimentError(f"{override!r} is not of the data; permitted: data=NAME and data.FIELD=VALUE")
    config = compose.data(overrides)
    if output is None:
        return images(config)
    if config.name in built_in.SETS:
        return images(replace(config, root=str(output)))
    if config.prepared is None and not is_prepared(config.root):
        return images(replace(config, prepared=str(output)))
    found = images(config)
    pointer.point(output, Path(config.root) if is_prepared(config.root) else folder(config))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. A person's mistake is one line on standard error and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m training.prepare", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "overrides", nargs="*", metavar="data.field=value", help="data=digits, shapes or images; fields"
    )
    parser.add_argument("--output", type=Path, help="folder of the prepared set")
    parsed = parser.parse_intermixed_args(arguments)
    try:
        found = run(parsed.overrides, parsed.output)
    except (DataError, ExperimentError) as error:
        print(error, file=sys.stderr)
        return 2
    about = found.description
    print(f"{about.name}: {about.train_count} images to train on, {about.count - about.train_count} held out, "
          f"{found.channels}x{found.image_size}x{found.image_size}, sha256 {about.fingerprint[:12]}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
