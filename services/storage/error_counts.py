"""Counts the errors of S3 for the metrics."""

from typing import Any

from services.observability import metrics


def count_errors(client: Any) -> None:
    """Count requests of this client that S3 refuses for reasons of its own, or does not answer."""
    client.meta.events.register("after-call.s3", _count)
    client.meta.events.register("after-call-error.s3", _count)


def _count(event_name: str, http_response: Any = None, **_: Any) -> None:
    if http_response is None or http_response.status_code >= 500 or http_response.status_code == 429:
        metrics.STORE_ERRORS.labels(event_name.rsplit(".", 1)[-1]).inc()  # after-call.s3.PutObject
