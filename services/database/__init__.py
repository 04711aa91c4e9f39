"""Connections to Postgres, its logins and its schema."""
