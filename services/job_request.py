"""What a client may ask for: one JSON Schema a release, limits, and errors that say what is permitted.

A request is checked whole, so that its author sees every mistake at once. What passes becomes a plan:
every default filled in and the seed drawn, so that the plan alone reproduces each image.
"""

import json
import re
import reprlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

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
SHOWN_MISTAKES = 10
MAX_KEY = 1_000
MAX_DEPTH = 32  # of lists and objects in each other
KEY_WORDS = "names of letters, digits, '_', '-', '=' and '.', joined by '/'"
KEY = r"[A-Za-z0-9_.=\-]+(/[A-Za-z0-9_.=\-]+)*"

SEED = {"type": "integer", "minimum": 0, "maximum": MAX_SEED}
STEPS = {"type": "integer", "minimum": 1, "maximum": MAX_STEPS}
GUIDANCE = {"type": "number", "minimum": 0, "maximum": MAX_GUIDANCE}
UNGUIDED = {"const": 1, "$comment": "this release never learned to do without its conditions"}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}


class RequestError(Exception):
    """A request that does not fit; each line names a field, its value and what is permitted."""


@dataclass(frozen=True)
class ImageSpec:
    """Everything that one image depends on, beside the release."""

    index: int
    item: int
    seed: int
    steps: int
    solver: str
    guidance_scale: float
    conditions: dict[str, Any]
    spacing: str = "trailing"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0


def guidance(conditions: Mapping[str, Any]) -> dict[str, Any]:
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
            "guidance_scale": guidance(conditions),
        },
        "required": conditions.get("required", []),
        "additionalProperties": False,
    }


def schema(conditions: Mapping[str, Any]) -> dict[str, Any]:
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
            "guidance_scale": guidance(conditions),
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


def plan(request: Any, conditions: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """The request with every default filled in. Raises RequestError with a line for each mistake.

    conditions: the release's JSON Schema. Of an input_uri the plan has the key, as "input"; its lines are yet unread.
    """
    mistakes = complaints(request, Draft202012Validator(schema(conditions)))
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
    within("output_prefix", planned["output_prefix"], limits.write_prefixes)
    if "input_uri" in planned:
        key = permitted_key("input_uri", planned["input_uri"], limits)
        return {**planned, "input": {"key": key}}
    check_count(len(planned["items"]) * planned["images_per_item"], limits)
    ids = [item["id"] for item in planned["items"] if "id" in item]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise RequestError(f"items: the id {twice!r} is given twice; each must be its item's own")
    return planned


def permitted_key(field: str, uri: str, limits: Limits) -> str:
    """The key that an s3://bucket/key, or a key alone, names. Raises RequestError where the tenant may not read it."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://"):
        key = uri
    elif bucket != limits.bucket:
        raise RequestError(f"{field}: the bucket {shown(bucket)} is not allowed; permitted: {limits.bucket}")
    if len(key) > MAX_KEY or not re.fullmatch(KEY, key):
        raise RequestError(f"{field}: {shown(uri)} is not allowed; permitted: {KEY_WORDS}")
    within(field, key, limits.read_prefixes)
    return key


def within(field: str, key: str, prefixes: Sequence[str]) -> None:
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


def complaints(value: Any, validator: Draft202012Validator) -> list[str]:
    """A line for each of the first mistakes; none where the value fits the validator's JSON Schema."""
    if depth_exceeds(value, MAX_DEPTH):
        return [f"nested too deeply; permitted: at most {MAX_DEPTH} levels"]
    errors = sorted(validator.iter_errors(value), key=lambda e: list(map(str, e.path)))
    lines = [line for error in errors for line in describe(error)]
    more = [f"and {len(lines) - SHOWN_MISTAKES} more mistakes"] if len(lines) > SHOWN_MISTAKES else []
    return lines[:SHOWN_MISTAKES] + more


def depth_exceeds(value: Any, limit: int) -> bool:
    """Whether lists and objects lie more than `limit` deep in each other. Without recursion."""
    level = [value]
    for _ in range(limit):
        level = [part for outer in level if isinstance(outer, dict | list)
                 for part in (outer.values() if isinstance(outer, dict) else outer)]  # fmt: skip
        if not level:
            return False
    return any(isinstance(part, dict | list) for part in level)


def parsed(text: str | bytes) -> Any:
    """The value of a JSON text. Raises RequestError for what is none, or has numbers that are none."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not a number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise RequestError(f"nested too deeply; permitted: at most {MAX_DEPTH} levels") from None
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        raise RequestError(f"not JSON: {error}") from None


def image_spec(
    planned: Mapping[str, Any], item: Mapping[str, Any], condition_names: Sequence[str], index: int
) -> ImageSpec:
    """Image `index` of a planned request: its item's seed + k, else the job's seed + index."""
    position, k = divmod(index, int(planned["images_per_item"]))
    return ImageSpec(
        index=index,
        item=position,
        seed=int(item["seed"]) + k if "seed" in item else int(planned["seed"]) + index,
        steps=int(item.get("steps", planned["steps"])),
        solver=planned["solver"],
        spacing=planned["spacing"],
        guidance_scale=float(item.get("guidance_scale", planned["guidance_scale"])),
        guidance_interval=(float(planned["guidance_interval"][0]), float(planned["guidance_interval"][1])),
        guidance_rescale=float(planned["guidance_rescale"]),
        # JSON has one kind of number: 3.0 is the class 3.
        conditions={name: _integral(item[name]) for name in condition_names},
    )


def evaluations(spec: ImageSpec) -> int:
    """Network evaluations that an image costs, about: two a step of Heun's; twice as many while it is guided."""
    steps = spec.steps * (2 if spec.solver == "heun" else 1)
    low, high = spec.guidance_interval
    return steps + (round(steps * (high - low)) if spec.guidance_scale != 1.0 else 0)


def describe(error: ValidationError) -> list[str]:
    """What is wrong, in one line a mistake: the field, the value, what is permitted."""
    rule: Any = error.schema
    instance: Any = error.instance
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{named(part)}" for part in error.absolute_path)
    path = path.lstrip(".")
    match error.validator:
        case "required":
            name = error.message.split("'")[1]  # one error a missing field; only its message says which
            return [f"{path}.{name}".lstrip(".") + f": missing; give {permitted(rule['properties'][name])}"]
        case "additionalProperties":
            known = rule["properties"]
            unknown = sorted(set(instance) - known.keys())
            return [
                f"{path}.{named(name)}".lstrip(".") + f": not a known field; permitted: {', '.join(sorted(known))}"
                for name in unknown[: SHOWN_MISTAKES + 1]
            ]
    return [f"{path or 'request'}: {shown(instance)} is not allowed; permitted: {permitted(rule)}"]


def named(field: object) -> str:
    """A field's name in an error: short and printable, whatever was sent."""
    name = str(field)
    return name if len(name) <= 60 and name.isprintable() else shown(name)


def shown(value: Any) -> str:
    """A value in an error: short and printable, whatever was sent."""
    text = reprlib.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def permitted(rule: Mapping[str, Any]) -> str:
    """A JSON Schema in words."""
    if "enum" in rule:
        return ", ".join(map(str, rule["enum"]))
    if "const" in rule:
        return f"{rule['const']}; {rule['$comment']}"
    least, most = rule.get("minItems", 0), rule.get("maxItems")
    match rule.get("type"):
        case "integer" | "number" as kind:
            noun = "an integer" if kind == "integer" else "a number"
            return f"{noun} from {rule['minimum']} to {rule['maximum']}"
        case "array" if least == most:
            return f"a list of {least}, each {permitted(rule['items'])}"
        case "array":
            return f"a list of {least} to {most} items"
        case "string" if "pattern" in rule:
            return KEY_WORDS
        case "string" if rule.get("contentEncoding") == "base64":
            return "an image file in base64, or the s3:// URI of one"
        case "string":
            return f"text of {rule.get('minLength', 0)} to {rule.get('maxLength', 'any number of')} characters"
        case "boolean":
            return "true or false"
        case _:
            return "a JSON object"


def _integral(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
