"""The JSON Schema of requests to a release, the tenant's limits, and errors that say what is permitted.

A request is validated as a whole, so that its author sees every mistake at once. A valid request becomes a plan: with
every default filled in and the seed drawn, the plan alone reproduces each image.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

from jsonschema import Draft202012Validator

from services.errors import quote
from services.job_queue.plan import Plan
from services.job_requests import expansion
from services.job_requests.canvas import CANVAS, Canvas
from services.job_requests.chains import THEN
from services.job_requests.distilled_rules import choose_defaults, read_distilled
from services.job_requests.image_rules import IMAGE_RULE, KEPT_IN_NULL
from services.job_requests.messages import MAX_MESSAGES, JsonSchema, validation_messages
from services.job_requests.output_options import FORMATS, OUTPUT, ImageNames, check_named, output_mistakes, plan_output
from services.job_requests.sampling_fields import (
    DECODER,
    LIGHT,
    SHARE,
    sampling_mistakes,
    sampling_schema,
    toward_schema,
)
from services.job_requests.strict_json import RequestError
from services.storage.uri import ObjectUri

MAX_IMAGES = 1_000_000  # of a job
MAX_ITEMS = 10_000  # in the request itself; an input_uri may have as many lines as the job may have images
MAX_PER_ITEM = 1_000  # images
MAX_SEED = 2**62  # leaves room for seed + index in 63 bits
DEFAULTS = {  # docs/results/claims.md measures this solver, number of steps and guidance
    "images_per_item": 1,
    "steps": 20,
    "solver": "dpm_solver_2m",
    "spacing": "trailing",
    "guidance_scale": 1.5,
    "guidance_interval": [0.0, 1.0],
    "guidance_rescale": 0.0,
    "format": "png",
}
OWN_DEFAULTS = "defaults"  # where the rules of a release have its own ones
MAX_METADATA = 16 * 2**10  # bytes of an item's, as JSON in UTF-8
MAX_URI = 1_100  # characters: a bucket of 63 bytes and a key
MAX_KEY = 1_024  # bytes in UTF-8, the limit of S3
READ_WORDS = (
    f"1 to {MAX_KEY} bytes of UTF-8 without control characters, in parts between '/' that are not empty, '.' or '..'"
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
KEY = r"[A-Za-z0-9_.=\-]+(/[A-Za-z0-9_.=\-]+)*"
END = r"$(?!\n)"  # Python's $ also matches before a last newline

NOT_AXES = ("id", "metadata", "toward")  # fields of an item that a grid cannot have

SEED = {"type": "integer", "minimum": 0, "maximum": MAX_SEED}


def item_schema(conditions: JsonSchema) -> dict[str, Any]:
    """Return the JSON Schema of an item.

    conditions: the JSON Schema of the release's conditions, and under `guided` whether it can be guided.
    """
    return {
        "type": "object",
        "properties": {
            **conditions.get("properties", {}),
            "id": {"type": "string", "minLength": 1, "maxLength": 200},
            "metadata": {"type": "object"},
            "seed": SEED,
            "toward": {**toward_schema(conditions, seed=SEED, share=SHARE), "required": ["share"]},
            **sampling_schema(conditions),
        },
        "required": conditions.get("required", []),
        "additionalProperties": False,
    }


def request_schema(conditions: JsonSchema) -> dict[str, Any]:
    """Return the JSON Schema of a request; see `item_schema` for `conditions`."""
    return {
        "type": "object",
        "properties": {
            "items": {"type": "array", "minItems": 1, "maxItems": MAX_ITEMS, "items": item_schema(conditions)},
            "input_uri": {"type": "string", "minLength": 1, "maxLength": MAX_URI},
            "interpolate": walk_schema(conditions),
            "grid": grid_schema(conditions),
            "images_per_item": {"type": "integer", "minimum": 1, "maximum": MAX_PER_ITEM},
            "seed": SEED,
            **sampling_schema(conditions),
            "format": {"enum": list(FORMATS)},
            "output": OUTPUT,
            "then": THEN,
            "dry_run": {"type": "boolean"},
            "output_prefix": {"type": "string", "pattern": f"^{KEY}{END}", "maxLength": 500},
        },
        "additionalProperties": False,
    }


def grid_schema(conditions: JsonSchema) -> dict[str, Any]:
    """Return the JSON Schema of a grid: lists of values for fields of items."""
    fields = {name: rule for name, rule in item_schema(conditions)["properties"].items() if name not in NOT_AXES}
    axes = {
        name: {"type": "array", "minItems": 1, "maxItems": expansion.MAX_VALUES, "items": rule}
        for name, rule in fields.items()
    }
    return {
        "type": "object",
        "properties": axes,
        "minProperties": 1,
        "maxProperties": expansion.MAX_AXES,
        "additionalProperties": False,
    }


def walk_schema(conditions: JsonSchema) -> dict[str, Any]:
    """Return the JSON Schema of an interpolation between two items; see `expand_interpolation`."""
    item = item_schema(conditions)
    first = {**item, "properties": {name: rule for name, rule in item["properties"].items() if name != "toward"}}
    frames = {"type": "integer", "minimum": 2, "maximum": expansion.MAX_FRAMES}
    return {
        "type": "object",
        "properties": {"from": first, "to": toward_schema(conditions, seed=SEED), "frames": frames},
        "required": ["from", "to", "frames"],
        "additionalProperties": False,
    }


def published_schema(conditions: JsonSchema) -> dict[str, Any]:
    """Return the JSON Schema of a request for other programs: with defaults, without keywords of this package alone."""

    def strip(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: strip(value) for name, value in part.items() if name not in (IMAGE_RULE, KEPT_IN_NULL)}
        return [strip(value) for value in part] if isinstance(part, list) else part

    schema: dict[str, Any] = strip(request_schema(conditions))
    for name, value in defaults_of(conditions).items():
        schema["properties"][name]["default"] = value
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def default_mistakes(fields: Mapping[str, Any], conditions: JsonSchema) -> list[str]:
    """Return a line for each field that cannot be a release's own default."""
    known = defaults_of({**conditions, OWN_DEFAULTS: {}})
    rules = {name: rule for name, rule in sampling_schema(conditions).items() if name in known}
    schema = {"type": "object", "properties": rules, "additionalProperties": False}
    return validation_messages(dict(fields), Draft202012Validator(schema))


@dataclass(frozen=True)
class Limits:
    """What a tenant may read, write and request.

    write_prefixes, read_prefixes: of keys in the service's bucket; the first write prefix is the default output prefix.
    """

    write_prefixes: Sequence[str]
    read_prefixes: Sequence[str] = ()
    max_images: int = MAX_IMAGES
    bucket: str = ""


def plan_request(request: Any, conditions: JsonSchema, limits: Limits) -> Plan:
    """Validate a request and fill in every default. Raises RequestError with a line for each mistake.

    conditions: see `item_schema`. The plan of a request with an input_uri refers to the object by its key; nothing of
    the object has been read yet.
    """
    request, conditions = expansion.complete_grid(request, conditions)
    mistakes = validation_messages(request, Draft202012Validator(request_schema(conditions)))
    given = [name for name in ("items", "input_uri", "interpolate") if name in request]
    if len(given) > 1:
        mistakes.insert(0, f"{given[0]}: given together with {given[1]}; give only one of them")
    elif not given:
        of_them = f" of {', '.join(conditions['required'])}" if conditions.get("required") else ""
        mistakes.insert(0, f"items: missing; give items or input_uri, or interpolate, or a grid{of_them}")
    if "grid" in request and "input_uri" in request:
        mistakes.insert(0, "grid: given together with input_uri; permitted: with items or interpolate")
    if not mistakes:
        mistakes = [*output_mistakes(request), *expansion.grid_mistakes(request)]
    if mistakes:
        raise RequestError("\n".join(mistakes))
    plan = cast(Plan, {"output_prefix": limits.write_prefixes[0], **defaults_of(conditions), **request})
    if "output" in plan:
        plan["output"] = plan_output(plan["output"])
    plan["format"] = plan.get("output", {}).get("format", plan["format"])
    plan["images_per_item"] = int(plan["images_per_item"])  # 2.0 is a valid integer of JSON Schema
    if "seed" not in plan:
        plan["seed"] = secrets.randbelow(2**32)
    if "interpolate" in plan:
        check_count(int(plan["interpolate"]["frames"]) * plan["images_per_item"], limits)
        plan["items"] = expansion.expand_interpolation(plan.pop("interpolate"), int(plan["seed"]))
    if "grid" in plan:
        check_cells(plan, limits)
        grid = dict(sorted(plan.pop("grid").items(), key=lambda axis: (len(axis[0]), axis[0])))  # the order of jsonb
        plan["axes"] = [[name, values] for name, values in grid.items()]
        plan["items"] = expansion.expand_grid(plan["items"], grid, int(plan["seed"]), plan["images_per_item"])
    canvas: Canvas | None = conditions.get(CANVAS)
    if canvas is not None and ("input_uri" in plan or any("size" in one for one in (plan, *plan["items"]))):
        plan["own_area"] = canvas.area
    check_prefix("output_prefix", plan["output_prefix"], limits.write_prefixes)
    if "input_uri" in plan:
        plan["input"] = {"key": resolve_key("input_uri", plan["input_uri"], limits, may_be_prefix=True)}
        return plan
    check_count(images := len(plan["items"]) * plan["images_per_item"], limits)
    check_named(plan, images)
    check_sampling(plan, canvas)
    seen: set[str] = set()
    names = ImageNames(plan, images)
    for number, item in enumerate(plan["items"]):
        check_metadata(item, f"items[{number}].metadata")
        if (name := item.get("id")) in seen:
            raise RequestError(f"items: the id {name!r} is given twice; each item needs its own id")
        if name is not None:
            seen.add(name)
        names.check(item, number)
    return plan


def defaults_of(conditions: JsonSchema) -> dict[str, Any]:
    """Return what a request to a release gets for the fields that it leaves out; see `item_schema`."""
    distilled = read_distilled(conditions)
    if distilled is not None:
        usual = choose_defaults(distilled)
    else:
        usual = {} if conditions.get("guided", True) else {"guidance_scale": 1.0}
    if conditions.get(LIGHT, False):  # others have nothing to choose
        usual = {**usual, "decoder": DECODER}
    return {**DEFAULTS, **usual, **conditions.get(OWN_DEFAULTS, {})}


def check_cells(plan: Plan, limits: Limits) -> None:
    """Raise RequestError if a grid has too many cells; they are counted, and not made."""
    items = len(plan["items"]) * expansion.count_cells(plan["grid"])
    if items > MAX_ITEMS:
        raise RequestError(f"grid: {items} items are not allowed; permitted: at most {MAX_ITEMS}")
    check_count(items * plan["images_per_item"], limits)


def check_sampling(plan: Plan, canvas: Canvas | None) -> None:
    """Raise RequestError with a line for each of the first items whose sampling fields do not fit each other."""
    found: dict[str, None] = {}  # a mistake of the job is that of all its items
    for number, item in enumerate(plan["items"]):
        found |= dict.fromkeys(sampling_mistakes(plan, item, canvas, f"items[{number}]."))
        if len(found) >= MAX_MESSAGES:
            break
    if found:
        raise RequestError("\n".join(list(found)[:MAX_MESSAGES]))


def check_metadata(item: Mapping[str, Any], field: str = "metadata") -> None:
    """Raise RequestError if an item's metadata are too long: the listings repeat them for each image."""
    if "metadata" in item and (size := len(json.dumps(item["metadata"], ensure_ascii=False).encode())) > MAX_METADATA:
        raise RequestError(f"{field}: {size} bytes of JSON are not allowed; permitted: at most {MAX_METADATA}")


def resolve_key(field: str, text: str, limits: Limits, *, may_be_prefix: bool = False) -> str:
    """Return the key that s3://BUCKET/KEY, or KEY alone, names. Raises RequestError if the tenant may not read it.

    may_be_prefix: whether the key may end in a slash.
    """
    uri = ObjectUri.parse(text)
    if uri is not None and uri.bucket != limits.bucket:
        raise RequestError(f"{field}: the bucket {quote(uri.bucket)} is not allowed; permitted: {limits.bucket}")
    key = text if uri is None else uri.key
    parts = (key.removesuffix("/") if may_be_prefix else key).split("/")
    parts += unquote(key.removesuffix("/")).split("/")  # for a proxy that decodes the path of a request twice
    if len(key.encode()) > MAX_KEY or CONTROL.search(key) or any(part in ("", ".", "..") for part in parts):
        raise RequestError(f"{field}: {quote(text)} is not allowed; permitted: {READ_WORDS}")
    check_prefix(field, key, limits.read_prefixes)
    return key


def check_prefix(field: str, key: str, prefixes: Sequence[str]) -> None:
    """Raise RequestError unless the key is under one of the prefixes."""
    if any(part in (".", "..") for part in key.split("/")) or not any(
        f"{key}/".startswith(f"{prefix}/") for prefix in prefixes
    ):
        permitted = f"under {', '.join(prefixes)}" if prefixes else "no key; ask an administrator for a prefix"
        raise RequestError(f"{field}: {key!r} is not allowed; permitted: {permitted}")


def check_count(images: int, limits: Limits) -> None:
    """Raise RequestError if a job has more images than its tenant may request."""
    if images > limits.max_images:
        raise RequestError(
            f"items x images_per_item: {images} images are not allowed; permitted: at most {limits.max_images}"
        )
