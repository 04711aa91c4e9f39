"""Variables of libraries that this process ignores, and those that it does not."""

import os
from pathlib import Path

import botocore
import pytest

from services.environment import advise, ignore_variables


def test_a_bundle_of_certificates_is_kept_and_what_redirects_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGSSLMODE", "PGSSLROOTCERT"):
        monkeypatch.setenv(name, "x")
    ignore_variables("PG")
    assert {name for name in os.environ if name.startswith("PG")} == {"PGSSLROOTCERT"}


def test_a_file_of_certificates_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The clients of S3 and of the broker say "No such file or directory" and do not name it."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "damaged.pem"))
    monkeypatch.setenv("PGSSLROOTCERT", str(Path(botocore.__file__).parent / "cacert.pem"))
    (tmp_path / "damaged.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    assert advise("DARKROOM_S3_ENDPOINT_URL").startswith(
        f"AWS_CA_BUNDLE: {tmp_path}/missing.pem cannot be read (No such file or directory). "
        f"SSL_CERT_FILE: {tmp_path}/damaged.pem has no certificates that can be read. Start"
    )
