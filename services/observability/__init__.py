"""Metrics, logs and the HTTP endpoints that serve metrics and health."""
