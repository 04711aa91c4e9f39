"""Opens the release with whose weights `darkroom train --from` begins."""

from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import CommandError

if TYPE_CHECKING:
    from training.planning.fine_tuning import Base


def resolve_base(reference: str) -> str:
    """Return a release folder as its absolute path, and a reference to a published release as it is.

    A folder is meant if it holds a release, or is given with a slash: pictures are often in a folder of the name of
    their release. Raises CommandError for a path that does not exist.
    """
    if not (Path(reference) / "release.json").is_file() and "/" not in reference:
        return reference
    if not Path(reference).is_dir():
        raise CommandError(f"--from: {reference!r} is neither a release folder nor a name; permitted: a release "
                           "folder, or a published name, name@alias or name@version")  # fmt: skip
    return str(Path(reference).absolute())


def open_base(reference: str) -> "Base":
    """Return a release folder, given by its absolute path, or a published release, by its version from now on.

    Starts the local stack for a published one. Raises CommandError for a release that is not published, is damaged or
    was retired, and PlanError for one with which no training can begin.
    """
    from services.cli.session import connect
    from services.cli.stack import start_if_local
    from services.registry import releases
    from services.registry.release_cache import ReleaseCache
    from services.storage.object_store import ObjectStore
    from training.model.release import ReleaseError, parse

    if Path(reference).is_absolute():
        try:
            return read_base(Path(reference), reference)
        except ReleaseError as error:
            raise CommandError(f"--from: {error}") from None
    start_if_local()
    settings, engine = connect("publisher")
    try:
        with engine.connect() as connection:
            row = releases.find(connection, reference)
    except releases.RegistryError as error:
        raise CommandError(f"--from: {str(error).removeprefix('model: ')}") from None
    finally:
        engine.dispose()
    from training.planning.fine_tuning import check_release

    pinned = f"{row.name}@{row.version}"
    check_release(parse(row.manifest), pinned)
    with ReleaseCache(ObjectStore.connect(settings), settings.cache_dir, settings.cache_gb).hold(row.manifest) as held:
        return read_base(held, pinned)


def read_base(folder: Path, reference: str) -> "Base":
    """Return a release folder as a base. Raises ReleaseError, or PlanError if no training can begin with it."""
    from training.model.latent_diffusion import load_autoencoder
    from training.model.release import read
    from training.planning.fine_tuning import Base, check_release

    check_release(read(folder), reference)
    autoencoder, description = load_autoencoder(folder)
    return Base(reference, description, autoencoder)
