"""The parameter `request_defaults`: the defaults of requests to the published release."""

import json
from collections.abc import Sequence
from typing import Any


def parse(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the fields that pairs such as steps=30 give; values are JSON, or else text. Raises ValueError."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"request_defaults: {pair!r} is not allowed; permitted: FIELD=VALUE, such as steps=30")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def check(pairs: Sequence[str]) -> None:
    """Raise ValueError for a field that no release can have as a default, and for a value that none permits."""
    from services.job_requests.sampling_fields import LIGHT
    from services.job_requests.schema import default_mistakes

    if mistakes := default_mistakes(parse(pairs), {LIGHT: True}):
        raise ValueError("; ".join(f"request_defaults: {line}" for line in mistakes))
