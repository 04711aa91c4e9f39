"""The compile cache of a release in S3: one worker compiles, and all workers of a profile run the same code.

Compiling takes a minute or more, and torch chooses some kernels by their time, so that two processes that compile the
same networks may give other last digits. An entry, under `compiled/entries/`, says for what its cache was made; the
cache, under `compiled/sha256/`, is named by its content. The first worker to write an entry wins.

torch reads such a cache with pickle and loads its libraries, which runs code. Only what the workers' own key may write
is therefore read: see docs/security.md.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

import training.model
from services.observability import metrics
from services.storage.object_store import ObjectStore
from training.model.release import Release

log = logging.getLogger("darkroom.compile_cache")

PREFIX = "compiled"
FORMAT = 1
MOST_BYTES = 2**30  # of a cache
MISSING = (403, 404)  # S3 answers 403 for a missing object to who may not list the bucket


@dataclass(frozen=True)
class Cache:
    """A cache as torch writes it. sha256: in hexadecimal digits; it names the cache in the execution profile."""

    content: bytes
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> "Cache":
        """Return a cache with its digest."""
        return cls(content, hashlib.sha256(content).hexdigest())


class CompileCache:
    """The caches in a bucket."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def get(self, key: Mapping[str, Any], compile_networks: Callable[[], bytes]) -> Cache:
        """Return the cache of a key, see `key_of`. If there is none that can be used, compile and store it.

        Returns that of another worker if it was faster. Raises what `compile_networks` raises, and errors of S3.
        """
        found, etag = self._find(key)
        if found is not None:
            metrics.COMPILE_CACHE.labels("loaded").inc()
            return found
        made = Cache.of(compile_networks())
        metrics.COMPILE_CACHE.labels("made").inc()
        try:
            return self._publish(key, made, etag)
        except ClientError as error:
            if _status(error) != 403:
                raise
            metrics.COMPILE_CACHE.labels("not_stored").inc()
            log.warning(
                "the compile cache is not stored, so each worker compiles: the S3 key has no permission to write %s/*",
                PREFIX,
            )
            return made

    def _find(self, key: Mapping[str, Any]) -> tuple[Cache | None, str | None]:
        """Return the cache of a key if it can be used, and the ETag of its entry if there is one."""
        path = entry_key(key)
        try:
            answer = self._store.client.get_object(Bucket=self._store.bucket, Key=path)
        except ClientError as error:
            if _status(error) in MISSING:
                return None, None
            raise
        with answer["Body"] as body:
            text, etag = body.read(2**20), str(answer["ETag"])
        try:
            entry = json.loads(text)
            made_for, sha256 = entry["key"], str(entry["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            return self._refuse("damaged", f"{path} cannot be read ({type(error).__name__})"), etag
        if made_for != dict(key):
            fields = sorted(name for name in key if made_for.get(name) != key[name])
            return self._refuse("refused", f"{path} was made for another {', '.join(fields)}"), etag
        try:
            cache = Cache.of(self._store.get_at_most(cache_key(sha256), MOST_BYTES))
        except ValueError as error:
            return self._refuse("damaged", str(error)), etag
        if cache.sha256 != sha256:
            return self._refuse("damaged", f"{cache_key(sha256)} has other content than its name says"), etag
        return cache, etag

    def _publish(self, key: Mapping[str, Any], made: Cache, etag: str | None) -> Cache:
        """Store a cache, and an entry in place of the one with this ETag. Returns what the entry then names."""
        self._store.put_if_absent(cache_key(made.sha256), made.content)
        entry = {"format": FORMAT, "key": dict(key), "sha256": made.sha256, "bytes": len(made.content)}
        body = json.dumps(entry, sort_keys=True).encode()
        if self._store.put_if_unchanged(entry_key(key), body, etag=etag, content_type="application/json") is None:
            log.info("another worker stored its compile cache first")
            return self._find(key)[0] or made
        return made

    @staticmethod
    def _refuse(outcome: str, problem: str) -> None:
        metrics.COMPILE_CACHE.labels(outcome).inc()
        log.warning("compile cache: %s; the networks are compiled again", problem)


def key_of(release: Release, profile: str, rows: int, decode: int, embed: int) -> dict[str, Any]:
    """Return everything on which a compile cache depends.

    profile: of the execution without a cache, which names the device, the precision and the versions of libraries.
    rows, decode, embed: of the network, the decoder and the conditions.
    """
    architecture = json.dumps(release.architecture, sort_keys=True).encode()
    return {
        "architecture": hashlib.sha256(architecture).hexdigest(),
        "latent_shape": list(release.latent_shape),
        "profile": profile,
        "rows": [rows, decode, embed],
        "code": code_digest(),
    }


def entry_key(key: Mapping[str, Any]) -> str:
    """Return the key of the object that names the cache of `key`."""
    return f"{PREFIX}/entries/{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.json"


def cache_key(sha256: str) -> str:
    """Return the key of a cache, which is named by its content."""
    return f"{PREFIX}/sha256/{sha256[:2]}/{sha256}"


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of the code of the networks, which decides what is compiled."""
    digest = hashlib.sha256()
    for path in sorted(Path(training.model.__path__[0]).glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
