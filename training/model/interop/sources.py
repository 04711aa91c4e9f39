"""Releases to start from: release folders, and folders of diffusers, which are read as releases."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from training.model.interop.huggingface.reading import is_diffusers_folder
from training.model.interop.huggingface.reading.model import find_sources
from training.model.interop.huggingface.reading.release import import_release
from training.model.release import MANIFEST


@contextmanager
def open_release(source: Path, *, first_stage: bool = False) -> Iterator[Path]:
    """Yield the release folder of a source, which may also be a folder of diffusers.

    Such a folder becomes a temporary release, with the digest that importing it gives. first_stage: of a pipeline, only
    the autoencoder is read. Raises DiffusersError; a folder that is neither is yielded as it is.
    """
    if (source / MANIFEST).is_file() or not is_diffusers_folder(source):
        yield source
        return
    if first_stage:
        source = find_sources(source).autoencoder or source
    with TemporaryDirectory(prefix="darkroom-") as folder:
        import_release(source, Path(folder) / "release", name="source")
        yield Path(folder) / "release"
