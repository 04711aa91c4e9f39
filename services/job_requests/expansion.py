"""Requests that stand for many items: a walk between two of them is expanded when its job is planned."""

import json
from collections.abc import Mapping
from typing import Any

from services.job_queue.plan import Item
from services.job_requests.strict_json import RequestError

MAX_FRAMES = 1_000
MAX_EXPANDED = 4 * 2**20  # bytes of JSON, as of a whole request


def expand_walk(walk: Mapping[str, Any], seed: int) -> list[Item]:
    """Return the items of a walk: frame i of n is its first item, i / (n - 1) of the way toward its last.

    seed: of the first item if it has none. An id is numbered. Raises RequestError if the items have too many bytes.
    """
    first, last, frames = walk["from"], walk["to"], int(walk["frames"])
    check_size("interpolate", [first, last], frames)
    return [
        {
            **first,
            "seed": first.get("seed", seed),
            "toward": {**last, "share": frame / (frames - 1)},
            **({"id": f"{first['id']}-{frame}"} if "id" in first else {}),
        }
        for frame in range(frames)
    ]


def check_size(field: str, repeated: Any, times: int) -> None:
    """Raise RequestError if a value that is repeated so many times has too many bytes."""
    size = len(json.dumps(repeated, ensure_ascii=False).encode()) * times
    if size > MAX_EXPANDED:
        raise RequestError(
            f"{field}: its items have {size} bytes of JSON; permitted: at most {MAX_EXPANDED}. "
            "Give images as objects, or once for the job"
        )
