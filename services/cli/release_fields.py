"""The fields that `darkroom releases show` prints."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.registry.evaluations import Evaluation
    from services.registry.releases import ReleaseRow


def release_fields(row: "ReleaseRow", aliases: list[str], evaluations: "list[Evaluation]") -> Iterator[tuple[str, str]]:
    """Yield the rows of `releases show`: what a release is, who published it, its scores and its files."""
    from services.job_requests.messages import describe_rule  # loads jsonschema

    manifest = row.manifest
    yield "release", f"{row.name}@{row.version} ({row.kind})"
    yield "aliases", ", ".join(aliases) or "none"
    yield "digest", row.digest
    for field in ("image_shape", "latent_shape"):
        yield field.replace("_", " "), " x ".join(map(str, manifest[field]))
    for name, rule in manifest["conditions"].get("properties", {}).items():
        yield "condition", f"{name}: {describe_rule(rule)}"
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
                yield "", f"{name}: {describe_metric(value)}"
    for name, record in manifest["files"].items():
        yield "file", f"{name}  {record['bytes']:,} bytes  sha256 {record['sha256'][:12]}"


def describe_metric(value: Any) -> str:
    """Return a value of an evaluation in words; --json has all values of a list."""
    match value:
        case float():
            return f"{value:.4f}"
        case dict():
            return ", ".join(f"{name} {describe_metric(part)}" for name, part in value.items())
        case list():
            return f"{len(value)} values"
        case _:
            return str(value)
