"""Jobs that make the same images with several releases: one job for each, since a job has one release."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any


def sibling_jobs(models: Sequence[str], job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a job for each release with the same request. Without a seed, one is drawn for all of them.

    job: its fields but for the model.
    """
    request = {"seed": secrets.randbelow(2**32), **job["request"]} if len(models) > 1 else job["request"]
    return [{**job, "model": model, "request": request} for model in models]
