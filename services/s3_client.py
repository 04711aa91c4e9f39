"""The boto3 client of every process of the service."""

import base64
import hashlib
import os
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from training.errors import DarkroomError, first_line

if TYPE_CHECKING:
    from boto3.session import Session

LOOPBACK = ("localhost", "127.0.0.1", "::1")
FROM_ENVIRONMENT = ("ca_bundle",)  # what is still read from an AWS_* variable beside explicit keys


class CredentialsError(DarkroomError):
    """boto3 cannot use its own configuration, such as a profile that does not exist."""


def make_client(
    *,
    endpoint_url: str | None,
    region: str,
    access_key_id: str | None,
    secret_access_key: str | None,
    connect_timeout_s: float = 5,
    read_timeout_s: float = 60,
    retries: int = 4,
) -> Any:
    """Return an S3 client. It opens no connection yet.

    endpoint_url: None for AWS. access_key_id, secret_access_key: None for boto3's own chain (roles, profiles). With
    keys, AWS_* variables (but AWS_CA_BUNDLE) and ~/.aws have no effect. A store on this machine is reached without a
    proxy. Raises CredentialsError if boto3 cannot use its own configuration.
    """
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    is_local = endpoint_url is not None and urlsplit(endpoint_url).hostname in LOOPBACK
    try:
        client = _session(isolated=access_key_id is not None).client(
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
                signature_version="s3v4",  # of links, too: boto3 would take version 2, which most regions refuse
                # Stores other than AWS rarely have a host name for each bucket.
                s3={"addressing_style": "path" if endpoint_url else "auto"},
                # Many S3-compatible stores refuse the checksums that recent SDKs send by default.
                request_checksum_calculation="when_required",
                proxies={} if is_local else None,
            ),
        )
    except BotoCoreError as error:
        raise CredentialsError(
            f"S3 credentials: {first_line(error)}. Check AWS_PROFILE and ~/.aws, or set DARKROOM_S3_ACCESS_KEY_ID "
            "and DARKROOM_S3_SECRET_ACCESS_KEY."
        ) from None
    client.meta.events.register("before-call.s3.DeleteObjects", _send_content_md5)
    for operation in ("GetObject", "HeadObject", "PutObject", "UploadPart"):
        client.meta.events.register(f"after-call.s3.{operation}", _require_etag)
    return client


def _require_etag(http_response: Any, parsed: dict[str, Any], model: Any, **_: Any) -> None:
    """Refuse what a proxy or a portal has answered in place of the store. The same request may succeed later."""
    from botocore.exceptions import HTTPClientError

    if http_response.status_code < 300 and "ETag" not in parsed:
        if "Body" in parsed:
            parsed["Body"].close()
        raise HTTPClientError(error=f"the answer to {model.name} has no ETag, so it is not from an object store")


def _session(*, isolated: bool) -> "Session":
    """Return a session. An isolated one reads neither AWS_* variables nor the files in ~/.aws."""
    import boto3  # takes a third of a second, which commands without S3 need not spend
    import botocore.session
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES as VARIABLES
    from botocore.configprovider import ConstantProvider

    if not isolated:
        return boto3.Session()
    settings = {
        name: (key, variable if name in FROM_ENVIRONMENT else None, default, convert)
        for name, (key, variable, default, convert) in VARIABLES.items()
    }
    for name in ("config_file", "credentials_file"):
        settings[name] = (None, None, os.devnull, None)
    session = botocore.session.Session(session_vars=settings)
    session.register_component("data_loader", _definitions())
    session.get_component("config_store").set_config_provider("s3", ConstantProvider({}))
    return boto3.Session(botocore_session=session)


@cache
def _definitions() -> Any:
    """Return botocore's definitions of services, which it would read anew, for 70 ms, for each client."""
    from botocore.loaders import create_loader

    return create_loader()


def _send_content_md5(params: dict[str, Any], **_: Any) -> None:
    """Send Content-MD5 instead of the CRC-32 of recent SDKs: S3 takes either, and older stores take nothing else."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
    params["context"].pop("checksum", None)
