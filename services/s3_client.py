"""The boto3 client of every process of the service."""

import base64
import hashlib
from typing import Any


def make_client(
    *,
    endpoint_url: str | None,
    region: str,
    access_key_id: str | None,
    secret_access_key: str | None,
    connect_timeout_s: float = 5,
    read_timeout_s: float = 60,
    retries: int = 4,
    use_proxies: bool = True,
) -> Any:
    """Return an S3 client. It opens no connection yet.

    endpoint_url: None for AWS. access_key_id, secret_access_key: None for boto3's own chain (roles, profiles).
    """
    import boto3  # takes a third of a second, which commands without S3 need not spend
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=region,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        config=Config(
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            retries={"mode": "standard", "max_attempts": retries},
            max_pool_connections=32,
            # Stores other than AWS rarely have a host name for each bucket.
            s3={"addressing_style": "path" if endpoint_url else "auto"},
            # Many S3-compatible stores refuse the checksums that recent SDKs send by default.
            request_checksum_calculation="when_required",
            proxies=None if use_proxies else {},
        ),
    )
    client.meta.events.register("before-call.s3.DeleteObjects", _send_content_md5)
    return client


def _send_content_md5(params: dict[str, Any], **_: Any) -> None:
    """Send Content-MD5 instead of the CRC-32 of recent SDKs: S3 takes either, and older stores take nothing else."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
    params["context"].pop("checksum", None)
