"""Chooses a published first stage for `darkroom train`, by measuring it on the pictures."""

from typing import TYPE_CHECKING

import typer

from services.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from services.registry.releases import ReleaseRow
    from services.settings import Settings
    from training.data.own_images.inspection import Inspection
    from training.planning.first_stages import Published

AUTO, NEW = "auto", "new"
ALIASES = ("production", "candidate")  # whose first stages are considered


def choose_published(wanted: str, inspection: "Inspection", size: int) -> "Published | None":
    """Return the published first stage that reconstructs the pictures best, if it fits; None to train a new one.

    wanted: auto, new or the reference of a release, which is used if it can be, whatever it reconstructs.
    Raises CommandError or RegistryError.
    """
    from services.cli.session import connect
    from services.registry import releases
    from training.planning.first_stages import FITS

    if wanted == NEW:
        return None
    settings, engine = connect("publisher")
    try:
        with engine.connect() as connection:
            rows = [releases.find(connection, wanted)] if wanted != AUTO else list(list_first_stages(connection))
    finally:
        engine.dispose()
    measured = []
    for row in rows:
        found, reason = measure(settings, row, inspection, size)
        if found is not None:
            measured.append(found)
        elif wanted != AUTO:
            raise CommandError(f"--first-stage: {wanted} is not allowed; {reason}")
    if not measured:
        return None
    best = max(measured, key=lambda one: one.psnr)
    if not best.fits and wanted == AUTO:
        typer.echo(f"       no published first stage fits: {best.reference}, the best, reconstructs the pictures at "
                   f"{best.psnr:.1f} dB, and {FITS:g} are needed")  # fmt: skip
        return None
    return best


def list_first_stages(connection: "Connection") -> "Iterator[ReleaseRow]":
    """Yield the autoencoders that an alias of ALIASES points at, each once."""
    from services.registry import releases

    found = {row.id: row for alias in ALIASES for row in releases.list_with_alias(connection, alias)}
    yield from (row for row in found.values() if row.kind == "autoencoder")


def measure(
    settings: "Settings", row: "ReleaseRow", inspection: "Inspection", size: int
) -> "tuple[Published | None, str | None]":
    """Return a release as a first stage with its PSNR, or why it cannot be one."""
    from services.registry.release_cache import ReleaseCache
    from services.storage.object_store import ObjectStore
    from training.model.latent_diffusion import load_autoencoder
    from training.planning.first_stages import Published, measure_psnr, why_not

    cache = ReleaseCache(ObjectStore.connect(settings), settings.cache_dir, settings.cache_gb)
    with cache.hold(row.manifest) as folder:
        autoencoder, _ = load_autoencoder(folder)
    if (reason := why_not(autoencoder, size, inspection.channels)) is not None:
        return None, reason
    return Published(f"{row.name}@{row.version}", autoencoder, measure_psnr(autoencoder, inspection.looks, size)), None
