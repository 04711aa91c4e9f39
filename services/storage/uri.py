"""URIs of objects in S3: s3://BUCKET/KEY."""

from typing import NamedTuple

SCHEME = "s3://"


class ObjectUri(NamedTuple):
    """A bucket and a key, or a prefix of keys, in it. Either may be empty."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> "ObjectUri | None":
        """Split s3://BUCKET/KEY at the first slash of the path. Returns None for any other text."""
        if not text.startswith(SCHEME):
            return None
        bucket, _, key = text.removeprefix(SCHEME).partition("/")
        return cls(bucket, key)

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"
