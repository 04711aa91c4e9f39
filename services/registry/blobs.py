"""The files of releases in S3: blobs that are named by their sha256."""

from pathlib import Path

from botocore.exceptions import ClientError

from services.storage.layout import blob_key
from services.storage.object_store import ObjectStore
from training.model.release import Release, ReleaseError, sha256_of


def download(store: ObjectStore, release: Release, folder: Path) -> None:
    """Download every file of a release. Raises ReleaseError naming the blob that is missing or damaged."""
    for name, record in release.files.items():
        key, path = blob_key(record.sha256), folder / Path(name).name
        where = f"release {release.name!r} (digest {release.digest[:12]}): the blob of {name}, {store.uri(key)},"
        try:
            store.download(key, path)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            raise ReleaseError(f"{where} is missing in S3; an operator has to publish the release again") from None
        if path.stat().st_size != record.bytes or sha256_of(path) != record.sha256:
            raise ReleaseError(f"{where} is damaged in S3; an operator has to publish the release again")


def upload(store: ObjectStore, release: Release, folder: Path) -> None:
    """Upload every file of a release that S3 does not hold whole. Raises ObjectStoreError."""
    for name, record in release.files.items():
        store.upload_if_absent(blob_key(record.sha256), folder / name, sha256=record.sha256)


def are_present(store: ObjectStore, release: Release) -> bool:
    """Return whether S3 has an object for every file of a release, without comparing them."""
    return all(store.etag(blob_key(record.sha256)) is not None for record in release.files.values())
