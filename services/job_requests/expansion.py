"""Expands interpolations between two items, and grids, to items when a job is planned."""

import json
from collections.abc import Mapping, Sequence
from itertools import islice, product
from math import prod
from typing import Any

from services.job_queue.plan import Item
from services.job_requests.messages import MAX_MESSAGES, JsonSchema
from services.job_requests.strict_json import RequestError

MAX_FRAMES = 1_000
MAX_AXES = 4  # of a grid
MAX_VALUES = 1_000  # of an axis
MAX_EXPANDED = 4 * 2**20  # bytes of JSON, as of a whole request


def expand_interpolation(interpolation: Mapping[str, Any], seed: int) -> list[Item]:
    """Return the items of an interpolation: frame i of n is its first item, i / (n - 1) of the way toward its last.

    seed: of the first item if it has none. An id is numbered. Raises RequestError if the items have too many bytes.
    """
    first, last, frames = interpolation["from"], interpolation["to"], int(interpolation["frames"])
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


def complete_grid(request: Any, conditions: JsonSchema) -> tuple[Any, JsonSchema]:
    """Return a request with a grid as one with items, and the conditions without those that the grid gives."""
    if not isinstance(request, dict) or not isinstance(grid := request.get("grid"), dict):
        return request, conditions
    missing = [name for name in conditions.get("required", []) if name not in grid]
    if not missing and not any(name in request for name in ("items", "input_uri", "interpolate")):
        request = {**request, "items": [{}]}
    return request, {**conditions, "required": missing}


def grid_mistakes(request: Mapping[str, Any]) -> list[str]:
    """Return a line for each of the first fields that both an item and the grid of a valid request give."""
    items = {f"items[{number}]": item for number, item in enumerate(request.get("items", ()))}
    if "interpolate" in request:
        items = {"interpolate.from": request["interpolate"]["from"]}
    found = (
        f"{where}.{name}: given together with grid.{name}; give only one of them"
        for where, item in items.items()
        for name in request.get("grid", ())
        if name in item
    )
    return list(islice(found, MAX_MESSAGES))


def count_cells(grid: Mapping[str, Any]) -> int:
    """Return how many cells a grid has."""
    return prod(len(values) for values in grid.values())


def expand_grid(items: Sequence[Item], grid: Mapping[str, Any], seed: int, per_item: int) -> list[Item]:
    """Return an item for each item and cell of a grid: of its axes the last one changes first.

    Without a seed of its own an item has the same one in all of its cells. seed: of the job. per_item: images. An id is
    numbered. Call it after the cells were counted. Raises RequestError if the items have too many bytes.
    """
    check_size(
        "grid",
        [*items, [max(values, key=lambda value: len(str(value))) for values in grid.values()]],
        count_cells(grid),
    )
    cells = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return [
        {
            "seed": seed + number * per_item,
            **item,
            **cell,
            **({"id": f"{item['id']}-{place}"} if "id" in item else {}),
        }
        for number, item in enumerate(items)
        for place, cell in enumerate(cells)
    ]
