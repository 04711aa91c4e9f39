"""Requests that are signed here fail as those of boto3 do."""

from pathlib import Path

import boto3
import pytest
from botocore.exceptions import NoCredentialsError

from services.storage.signed_put import SignedPuts


def test_without_credentials_boto3_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.Session().client("s3", region_name="us-east-1", endpoint_url="http://127.0.0.1:1")
    with pytest.raises(NoCredentialsError):
        SignedPuts(client, "darkroom").put("key", b"body")
