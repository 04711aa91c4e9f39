"""Requests are signed as botocore signs them."""

import hashlib
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from services.storage.signature import sign


@pytest.mark.parametrize("token", [None, "a/session+token=="], ids=["keys", "role"])
@pytest.mark.parametrize(
    ("method", "url", "body", "headers"),
    [
        (
            "PUT",
            "http://127.0.0.1:8333/bucket/outputs/a%20b/%C3%A9%2B~.png",
            b"an image",
            {"content-type": "image/png", "if-none-match": "*", "x-amz-meta-sha256": "  ab  cd "},
        ),
        ("GET", "http://bucket.example.org/?list-type=2&max-keys=7&prefix=a%2Fb%20c&start-after=a%2Fb", b"", {}),
    ],
    ids=["put", "list"],
)
def test_signatures_are_those_of_botocore(
    method: str, url: str, body: bytes, headers: dict[str, str], token: str | None
) -> None:
    credentials = ReadOnlyCredentials("key", "secret", token)
    request = AWSRequest(method, url, dict(headers), body)
    S3SigV4Auth(credentials, "s3", "eu-central-1").add_auth(request)
    now = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    parts = urlsplit(url)
    signed = sign(
        method,
        parts.path,
        parts.query,
        {**headers, "host": parts.netloc},
        credentials,
        "eu-central-1",
        sha256=hashlib.sha256(body).hexdigest(),
        now=now,
    )
    theirs = {name.lower(): value for name, value in request.headers.items()}
    assert signed["authorization"] == theirs.pop("authorization")
    assert theirs.items() <= signed.items()
