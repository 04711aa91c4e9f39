"""The expected content of an object, and whether S3's answers show that it is stored."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

PART_BYTES = 8 * 2**20  # of a multipart upload; a smaller file is one object


@dataclass(frozen=True)
class Content:
    """The content that a key should hold."""

    sha256: str
    size: int
    md5: str  # hexadecimal
    etag: str  # that most stores give it: its MD5, or the MD5 of its parts' MD5s

    @classmethod
    def of_bytes(cls, body: bytes) -> Self:
        """Describe the content of an object that is written by one request."""
        md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
        return cls(hashlib.sha256(body).hexdigest(), len(body), md5, md5)

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Describe the content of a file, which is uploaded in parts of PART_BYTES if it is larger than one."""
        sha256, whole, parts, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), [], 0
        with path.open("rb") as file:
            while part := file.read(PART_BYTES):
                sha256.update(part)
                whole.update(part)
                parts.append(hashlib.md5(part, usedforsecurity=False).digest())
                size += len(part)
        etag = whole.hexdigest()
        if size >= PART_BYTES:
            etag = f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"
        return cls(sha256.hexdigest(), size, whole.hexdigest(), etag)

    def is_in(self, head: Mapping[str, Any]) -> bool | None:
        """Return whether the object of this answer to HeadObject has the content; None if only reading it can tell.

        An encrypted object, or one that was uploaded in other parts, has an ETag of its own kind.
        """
        if head["ContentLength"] != self.size:
            return False
        return True if head["ETag"].strip('"') == self.etag else None


def recorded_sha256(head: Mapping[str, Any]) -> str | None:
    """Return the sha256 that the writer of an object has noted in its metadata; some stores capitalise its name."""
    noted = {name.lower(): value for name, value in head.get("Metadata", {}).items()}
    return str(noted["sha256"]).lower() if "sha256" in noted else None


def digest_of(chunks: Iterable[bytes]) -> tuple[str, int]:
    """Return the sha256 and the size of a stream."""
    sha256, size = hashlib.sha256(), 0
    for chunk in chunks:
        sha256.update(chunk)
        size += len(chunk)
    return sha256.hexdigest(), size
