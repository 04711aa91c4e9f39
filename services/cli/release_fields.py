"""The fields that `darkroom releases show` prints."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.registry.evaluations import Evaluation
    from services.registry.releases import ReleaseRow


def release_fields(row: "ReleaseRow", aliases: list[str], evaluations: "list[Evaluation]") -> Iterator[tuple[str, str]]:
    """Yield the rows of `releases show`: what a release is, who published it, its scores and its files."""
    manifest = row.manifest
    yield "release", f"{row.name}@{row.version} ({row.kind})"
    yield "aliases", ", ".join(aliases) or "none"
    yield "digest", row.digest
    for field in ("image_shape", "latent_shape"):
        yield field.replace("_", " "), " x ".join(map(str, manifest[field]))
    for name, rule in manifest["conditions"].get("properties", {}).items():
        yield "condition", f"{name}: {json.dumps(rule)}"
    for name, value in manifest["architecture"].get("sampling", {}).items():
        yield "default", f"{name}: {value}"
    yield "published by", row.published_by
    if row.retired_at is not None:
        yield "retired", f"{row.retired_at:%Y-%m-%d %H:%M} by {row.retired_by}"
    yield from row.origin.items()
    for parent in ("autoencoder", "initial"):
        if parent in manifest["lineage"]:
            yield f"its {parent}", manifest["lineage"][parent][:12]
    for score in evaluations:
        yield "evaluation", f"{score.fingerprint[:12]} of {score.created_at:%Y-%m-%d %H:%M}"
        for name, value in score.metrics.items():
            if not name.endswith(("fingerprint", "digest")):
                yield "", f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}"
    for name, record in manifest["files"].items():
        yield "file", f"{name}  {record['bytes']:,} bytes  sha256 {record['sha256'][:12]}"
