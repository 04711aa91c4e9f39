"""A folder that stands for another one: what is too large to be handed from stage to stage stays on its volume."""

from pathlib import Path

POINTER = "elsewhere.txt"  # the path of the other one


def point(folder: Path, target: Path) -> None:
    """Let `folder` stand for `target`, or for what that stands for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / POINTER).write_text(f"{followed(target).absolute()}\n")


def followed(folder: Path) -> Path:
    """The folder itself, or the one that it stands for."""
    pointer = folder / POINTER
    return Path(pointer.read_text().strip()) if pointer.is_file() else folder
