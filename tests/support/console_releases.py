"""Releases for the console to show: rows of the registry and sample sheets in S3, without weights."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text
from starlette.testclient import TestClient

from services.registry.releases import ReleaseRow, find
from services.storage.layout import blob_key
from tests.support.console import picture
from tests.support.stack import Stack
from training.model.release import FileRecord, Release


@contextmanager
def releases_called(
    stack: Stack, name: str, versions: int = 1, *, sheets: Sequence[bytes] = (), **manifest: Any
) -> Iterator[list[ReleaseRow]]:
    """Versions of a name that differ from the tiny release in their sheets; they are removed at the end.

    sheets: PNG files, one for each version. manifest: fields that the manifests have instead.
    """
    with stack.engine("publisher").begin() as connection:
        like = find(connection, "tiny@production").manifest
    with stack.engine("migrator").begin() as connection:
        for version in range(1, versions + 1):
            sheet = sheets[version - 1] if sheets else picture(version)
            _insert(connection, stack, version, sheet, {**like, **manifest, "name": name})
        rows = [find(connection, f"{name}@{version}") for version in range(1, versions + 1)]
    try:
        yield rows
    finally:
        with stack.engine("migrator").begin() as connection:
            of_name = "(SELECT id FROM releases WHERE name = :name)"
            connection.execute(text(f"UPDATE jobs SET release_id = NULL WHERE release_id IN {of_name}"), {"name": name})
            connection.execute(text("DELETE FROM promotions WHERE name = :name"), {"name": name})
            connection.execute(text("DELETE FROM aliases WHERE name = :name"), {"name": name})
            connection.execute(text(f"DELETE FROM evaluations WHERE release_id IN {of_name}"), {"name": name})
            connection.execute(text("DELETE FROM releases WHERE name = :name"), {"name": name})


def _insert(connection: Any, stack: Stack, version: int, sheet: bytes, manifest: Mapping[str, Any]) -> None:
    name = manifest["name"]
    sha256 = hashlib.sha256(sheet).hexdigest()
    stack.store().put(blob_key(sha256), sheet, content_type="image/png")
    files = {**manifest["files"], "samples.png": {"sha256": sha256, "bytes": len(sheet)}}
    weights = hashlib.sha256(f"{name}@{version}".encode()).hexdigest()  # of no file: each version has its own digest
    files["unet.safetensors"] = {**files["unet.safetensors"], "sha256": weights}
    records = {file: FileRecord(**record) for file, record in files.items()}
    fields = {one: manifest[one] for one in ("name", "kind", "architecture", "conditions", "lineage", "metrics")}
    shapes: dict[str, Any] = {one: tuple(manifest[one]) for one in ("image_shape", "latent_shape")}
    release = Release(**fields, **shapes, files=records)
    connection.execute(
        text("INSERT INTO releases (name, version, kind, digest, manifest) "
             "VALUES (:name, :version, :kind, :digest, CAST(:manifest AS jsonb))"),
        {"name": name, "version": version, "kind": release.kind, "digest": release.digest,
         "manifest": json.dumps(release.to_json())},
    )  # fmt: skip


def send_form(console: TestClient, page: str, action: str, /, **fields: Any) -> Any:
    """Post a form of a page with the page's token and its hidden fields, as a browser does. Returns the answer."""
    body = console.get(page).text
    match = re.search(rf'<form[^>]* method="post" action="{re.escape(action)}".*?</form>', body, re.DOTALL)
    assert match, f"{page} has no form that leads to {action}"
    hidden = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', match[0]))
    return console.post(action, data={**hidden, **fields})


def submit_checked(console: TestClient, checked: Any, **fields: Any) -> Any:
    """Press the button of a form that was checked, as it is or with other fields. Returns the answer."""
    hidden = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', checked.text))
    (pressed,) = re.findall(r'name="submit" value="([^"]+)"', checked.text)
    return console.post("/submit", data={**hidden, "submit": pressed, **fields})
