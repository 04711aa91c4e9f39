"""Requests that are signed here fail as those of boto3 do."""

from pathlib import Path

import boto3
import pytest
from botocore.exceptions import NoCredentialsError

from services.storage.signed_requests import SignedRequests, parse_listing


def test_without_credentials_boto3_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.Session().client("s3", region_name="us-east-1", endpoint_url="http://127.0.0.1:1")
    with pytest.raises(NoCredentialsError):
        SignedRequests(client, "darkroom").put("key", b"body")


NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@pytest.mark.parametrize("attribute", ["", NAMESPACE], ids=["none", "namespace"])
def test_a_listing_is_read(attribute: str) -> None:
    """Keys are encoded only if the store says so."""
    found = "<Contents><Key>a%2Fb%20c+d.png</Key><Size>12</Size><ETag>&quot;ab&quot;</ETag></Contents>"
    for encoding, key in (("", "a%2Fb%20c+d.png"), ("<EncodingType>url</EncodingType>", "a/b c+d.png")):
        body = f"<ListBucketResult{attribute}><IsTruncated>true</IsTruncated>{encoding}{found}</ListBucketResult>"
        assert parse_listing(body.encode()) == ({key: (12, '"ab"')}, True)
    assert parse_listing(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>") == ({}, False)
