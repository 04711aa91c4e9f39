"""Publishes release folders to the registry and fetches them, for several commands."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from sqlalchemy import Engine

from services.cli.terminal import print_json
from services.errors import CommandError
from services.registry import aliases, blobs, releases
from services.settings import Settings
from services.storage.object_store import ObjectStore
from training.model import release as release_format
from training.model.release import Serve


@dataclass(frozen=True)
class Published:
    """What publishing a folder did. new: whether its content was not published under this name before."""

    name: str
    version: int
    digest: str
    new: bool
    alias: str | None


def publish(
    settings: Settings,
    engine: Engine,
    folder: Path,
    *,
    name: str | None,
    alias: str | None,
    serve: Serve = Serve(),  # noqa: B008  # it is immutable
    sampling: Mapping[str, Any] = releases.NOTHING,
) -> Published:
    """Publish a release folder, and point `alias` at it unless that is None. serve, sampling: see `releases.publish`.

    Raises ReleaseError for a folder that is not a whole release, RegistryError for a name or an alias that is not
    allowed, and ObjectStoreError.
    """
    release = releases.read_folder(folder, serve, sampling)
    name = releases.check_name(name or release.name)
    if alias is not None:
        aliases.check_alias(alias)  # before an upload of gigabytes
    with engine.connect() as connection:
        known = releases.find_version(connection, name, release.digest)
    with Console(stderr=True).status(f"Uploading {folder}"), engine.begin() as connection:
        _, version = releases.publish(
            connection, ObjectStore.connect(settings), folder, name=name, serve=serve, sampling=sampling
        )
        if alias is not None:
            aliases.promote(connection, f"{name}@{version}", alias)
    return Published(name, version, release.digest, known is None, alias)


def print_published(published: Published, *, as_json: bool) -> None:
    """Say what was published, and how to use it."""
    if as_json:
        print_json(asdict(published))
        return
    reference = f"{published.name}@{published.version}"
    if not published.new:
        typer.echo(f"{reference} already has this content; no new version was made.")
        if published.alias is not None:
            typer.echo(f"{published.name}@{published.alias} is version {published.version}.")
        return
    if published.alias is not None:
        typer.echo(f"{reference} is published as {published.alias}.")
    else:
        typer.echo(f"{reference} is published. To make it the default: darkroom releases promote {reference}")


def fetch(settings: Settings, engine: Engine, reference: str, folder: Path) -> dict[str, Any]:
    """Download a published release into a new or empty folder. Returns what the command answers.

    Raises CommandError for a folder that is in use, RegistryError for a release that does not exist and ReleaseError
    if its files in S3 are damaged. The folder appears only when it is whole.
    """
    _check_new(folder)
    with engine.connect() as connection:
        row = releases.find(connection, reference, retired=True)
    release = release_format.parse(row.manifest)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder.parent))
        try:
            with Console(stderr=True).status(f"Downloading {row.name}@{row.version}"):
                blobs.download(ObjectStore.connect(settings), release, workplace)
            release_format.write(workplace, release)
            workplace.chmod(0o755)
            workplace.replace(folder)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)
    except OSError as error:
        raise CommandError(f"{folder} cannot be written ({error.strerror or error})") from None
    return {"path": str(folder), "name": row.name, "version": row.version, "digest": row.digest}


def _check_new(folder: Path) -> None:
    """Raise CommandError unless a folder is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CommandError(f"{folder} already exists; give a new or empty folder")
