"""Variables of libraries that this process ignores, and those that it does not."""

import os

import pytest

from services.environment import ignore_variables


def test_a_bundle_of_certificates_is_kept_and_what_redirects_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGSSLMODE", "PGSSLROOTCERT"):
        monkeypatch.setenv(name, "x")
    ignore_variables("PG")
    assert {name for name in os.environ if name.startswith("PG")} == {"PGSSLROOTCERT"}
