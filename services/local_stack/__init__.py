"""Postgres, Valkey and SeaweedFS on this machine, from Python packages, for `darkroom up`.

Every server listens on 127.0.0.1 only and requires a password. All state is in one folder."""
