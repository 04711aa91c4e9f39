"""What a client may ask for: one JSON Schema a release, limits, and errors that say what is permitted.

A request is checked whole, so that its author sees every mistake at once. What passes becomes a plan:
every default filled in and the seed drawn, so that the plan alone reproduces each image.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator

from services.errors import shown
from services.job_requests.messages import KEY_WORDS, MAX_DEPTH, validation_messages
from training.errors import DarkroomError

MAX_IMAGES = 1_000_000  # a job
MAX_ITEMS = 10_000  # in the request itself; an input_uri may have as many as images
MAX_PER_ITEM = 1_000
MAX_SEED = 2**62  # leaves room for seed + index in 63 bits
MAX_STEPS = 1_000
MAX_GUIDANCE = 50
SOLVERS = (
    "ddim", "ddpm", "deis", "dpm_solver_2m", "dpm_solver_2m_sde", "dpm_solver_3m", "euler", "euler_ancestral", "heun",
    "plms", "unipc",
)  # fmt: skip
SPACINGS = ("ays", "karras", "leading", "linspace", "trailing")
FORMATS = ("png", "jpeg", "webp")
DEFAULTS = {  # solver, steps and guidance are what docs/results/claims.md has measured
    "images_per_item": 1,
    "steps": 20,
    "solver": "dpm_solver_2m",
    "spacing": "trailing",
    "guidance_scale": 1.5,
    "guidance_interval": [0.0, 1.0],
    "guidance_rescale": 0.0,
    "format": "png",
}
MAX_KEY = 1_000
KEY = r"[A-Za-z0-9_.=\-]+(/[A-Za-z0-9_.=\-]+)*"

SEED = {"type": "integer", "minimum": 0, "maximum": MAX_SEED}
STEPS = {"type": "integer", "minimum": 1, "maximum": MAX_STEPS}
GUIDANCE = {"type": "number", "minimum": 0, "maximum": MAX_GUIDANCE}
UNGUIDED = {"const": 1, "$comment": "this release never learned to do without its conditions"}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}


class RequestError(DarkroomError):
    """A request that does not fit; each line names a field, its value and what is permitted."""


def guidance_schema(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of a guidance scale: 1, which is none, where the release never learned to do without conditions."""
    return GUIDANCE if conditions.get("guided", True) else UNGUIDED


def item_schema(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of an item for a release with these `conditions`: its own JSON Schema, and whether it is `guided`."""
    return {
        "type": "object",
        "properties": {
            **conditions.get("properties", {}),
            "id": {"type": "string", "minLength": 1, "maxLength": 200},
            "metadata": {"type": "object"},
            "seed": SEED,
            "steps": STEPS,
            "guidance_scale": guidance_schema(conditions),
        },
        "required": conditions.get("required", []),
        "additionalProperties": False,
    }


def request_schema(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of a request for a release with these `conditions`."""
    return {
        "type": "object",
        "properties": {
            "items": {"type": "array", "minItems": 1, "maxItems": MAX_ITEMS, "items": item_schema(conditions)},
            "input_uri": {"type": "string", "pattern": rf"^(s3://[a-z0-9.\-]+/)?{KEY}$", "maxLength": MAX_KEY},
            "images_per_item": {"type": "integer", "minimum": 1, "maximum": MAX_PER_ITEM},
            "seed": SEED,
            "steps": STEPS,
            "solver": {"enum": list(SOLVERS)},
            "spacing": {"enum": list(SPACINGS)},
            "guidance_scale": guidance_schema(conditions),
            "guidance_interval": {"type": "array", "items": SHARE, "minItems": 2, "maxItems": 2},
            "guidance_rescale": SHARE,
            "format": {"enum": list(FORMATS)},
            "output_prefix": {"type": "string", "pattern": f"^{KEY}$", "maxLength": 500},
        },
        "additionalProperties": False,
    }


@dataclass(frozen=True)
class Limits:
    """What a tenant may do. Prefixes are of keys in the service's bucket, and the first to write to is the default."""

    write_prefixes: Sequence[str]
    read_prefixes: Sequence[str] = ()
    max_images: int = MAX_IMAGES
    bucket: str = ""


def plan_request(request: Any, conditions: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """The request with every default filled in. Raises RequestError with a line for each mistake.

    conditions: the release's JSON Schema. Of an input_uri the plan has the key, as "input"; its lines are yet unread.
    """
    mistakes = validation_messages(request, Draft202012Validator(request_schema(conditions)))
    if ("items" in request) == ("input_uri" in request):
        given = "given with an input_uri; give one" if "items" in request else "missing; give them, or an input_uri"
        mistakes.insert(0, f"items: {given}")
    if mistakes:
        raise RequestError("\n".join(mistakes))
    default = DEFAULTS if conditions.get("guided", True) else {**DEFAULTS, "guidance_scale": 1.0}
    planned = {"output_prefix": limits.write_prefixes[0], **default, **request}
    if "seed" not in planned:
        planned["seed"] = secrets.randbelow(2**32)
    low, high = planned["guidance_interval"]
    if low > high:
        raise RequestError(f"guidance_interval: [{low}, {high}] is not allowed; permitted: the lower number first")
    check_prefix("output_prefix", planned["output_prefix"], limits.write_prefixes)
    if "input_uri" in planned:
        key = resolve_key("input_uri", planned["input_uri"], limits)
        return {**planned, "input": {"key": key}}
    check_count(len(planned["items"]) * planned["images_per_item"], limits)
    ids = [item["id"] for item in planned["items"] if "id" in item]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise RequestError(f"items: the id {twice!r} is given twice; each must be its item's own")
    return planned


def resolve_key(field: str, uri: str, limits: Limits) -> str:
    """The key that an s3://bucket/key, or a key alone, names. Raises RequestError where the tenant may not read it."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://"):
        key = uri
    elif bucket != limits.bucket:
        raise RequestError(f"{field}: the bucket {shown(bucket)} is not allowed; permitted: {limits.bucket}")
    if len(key) > MAX_KEY or not re.fullmatch(KEY, key):
        raise RequestError(f"{field}: {shown(uri)} is not allowed; permitted: {KEY_WORDS}")
    check_prefix(field, key, limits.read_prefixes)
    return key


def check_prefix(field: str, key: str, prefixes: Sequence[str]) -> None:
    """Raise RequestError unless the key lies under one of the prefixes."""
    if any(part in (".", "..") for part in key.split("/")) or not any(
        f"{key}/".startswith(f"{allowed}/") for allowed in prefixes
    ):
        permitted_ = f"under {', '.join(prefixes)}" if prefixes else "none, ask an administrator"
        raise RequestError(f"{field}: {key!r} is not allowed; permitted: {permitted_}")


def check_count(images: int, limits: Limits) -> None:
    """Raise RequestError for a job of more images than the tenant may have."""
    if images > limits.max_images:
        raise RequestError(
            f"items x images_per_item: {images} images are not allowed; permitted: at most {limits.max_images}"
        )


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises RequestError for what is none, or has numbers that are none."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not a number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise RequestError(f"nested too deeply; permitted: at most {MAX_DEPTH} levels") from None
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        raise RequestError(f"not JSON: {error}") from None
