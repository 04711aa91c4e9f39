"""Pointer folders: a small folder that points to a large one, so that data stays on its volume between stages."""

from pathlib import Path

POINTER = "elsewhere.txt"  # holds the path of the target


def point(folder: Path, target: Path) -> None:
    """Make `folder` point to `target`. If that is a pointer itself, `folder` points to its target."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / POINTER).write_text(f"{resolve(target).absolute()}\n")


def resolve(folder: Path) -> Path:
    """Return the folder that `folder` points to, or `folder` itself if it is not a pointer."""
    pointer = folder / POINTER
    return Path(pointer.read_text().strip()) if pointer.is_file() else folder
