"""The sampling fields of a job, which each item can override."""

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from services.errors import quote
from services.job_queue.plan import Item, Plan
from services.job_requests.canvas import CANVAS, MASK_RULE, MAX_SIDE, Canvas, Size
from services.job_requests.distilled_rules import read_distilled, restrict
from services.job_requests.image_rules import IMAGE_RULE, KEPT_IN_NULL
from services.job_requests.messages import JsonSchema
from training.model.release import DecoderName
from training.model.solvers import SOLVERS

MAX_STEPS = 1_000
TIMESTEPS = "timesteps"  # the field of a release's rules: those of its training, the most steps of a sampling
MAX_GUIDANCE = 50
SPACINGS = (
    "ays", "beta", "exponential", "karras", "lcm", "leading", "leading_exact", "linspace", "shifted",
    "sigma_uniform", "trailing",
)  # fmt: skip

GUIDANCE = {"type": "number", "minimum": 0, "maximum": MAX_GUIDANCE}
UNTRAINED = "this release was trained without condition dropout, so it cannot be guided"
UNGUIDED = {"const": 1, "$comment": UNTRAINED}
NOT_NEGATIVE = {"not": {}, "$comment": UNTRAINED}
LIGHT = "light_decoder"  # the field of a release's rules: whether it has a light decoder
DECODER = "full"  # that images are decoded with where neither the request nor the release says
ONLY_OWN = {"const": DECODER, "$comment": "this release has no light decoder"}
NO_CONDITIONS = {"not": {}, "$comment": "this release has no conditions to lead away from"}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
SIDE = {"type": "integer", "minimum": 1, "maximum": MAX_SIDE}
SIZE = {"type": "array", "items": SIDE, "minItems": 2, "maxItems": 2}
STRENGTH = {"type": "number", "minimum": 0.01, "maximum": 1}
STOCHASTIC = "ddim"  # the solver that takes an eta; the noise of the others is their own


def sampling_schema(conditions: JsonSchema) -> dict[str, Any]:
    """Return the JSON Schema of each field.

    conditions: see `releases.request_rules`. Without a canvas, a release takes no images to begin with.
    """
    guided = conditions.get("guided", True)
    fields = {
        "steps": {"type": "integer", "minimum": 1, "maximum": min(MAX_STEPS, conditions.get(TIMESTEPS, MAX_STEPS))},
        "solver": {"enum": sorted(SOLVERS)},
        "spacing": {"enum": list(SPACINGS)},
        "eta": SHARE,
        "guidance_scale": GUIDANCE if guided else UNGUIDED,
        "guidance_interval": {"type": "array", "items": SHARE, "minItems": 2, "maxItems": 2},
        "guidance_rescale": SHARE,
        "variations": SHARE,
        "decoder": {"enum": list(get_args(DecoderName))} if conditions.get(LIGHT, False) else ONLY_OWN,
        "negative": negative_schema(conditions) if guided or not conditions.get("properties") else NOT_NEGATIVE,
    }
    if CANVAS in conditions:
        fields |= {**image_schema(conditions[CANVAS]), "strength": STRENGTH, "size": SIZE}
    distilled = read_distilled(conditions)
    return fields if distilled is None else restrict(fields, distilled)


def image_schema(canvas: Canvas) -> dict[str, Any]:
    """Return the JSON Schema of the images that sampling begins with."""
    return {
        "image": {"type": "string", "contentEncoding": "base64", IMAGE_RULE: canvas.image_rule},
        "mask": {"type": "string", "contentEncoding": "base64", IMAGE_RULE: MASK_RULE},
    }


def negative_schema(conditions: JsonSchema) -> dict[str, Any]:
    """Return the JSON Schema of what guidance leads away from: any conditions that are not kept in the null condition.

    A field that is left out has its null condition.
    """
    properties = {
        name: rule for name, rule in conditions.get("properties", {}).items() if not rule.get(KEPT_IN_NULL, False)
    }
    if not properties:
        return NO_CONDITIONS
    return {"type": "object", "properties": properties, "minProperties": 1, "additionalProperties": False}


def toward_schema(conditions: JsonSchema, **more: Any) -> dict[str, Any]:
    """Return the JSON Schema of the end of an interpolation: any conditions that have no images, and `more` fields."""
    properties = {name: rule for name, rule in conditions.get("properties", {}).items() if not has_images(rule)}
    return {"type": "object", "properties": {**properties, **more}, "minProperties": 1, "additionalProperties": False}


def has_images(rule: JsonSchema) -> bool:
    """Return whether there may be an image in a condition."""
    return "contentEncoding" in rule or any(map(has_images, rule.get("properties", {}).values()))


def item_rules(conditions: JsonSchema) -> dict[str, Any]:
    """Return the JSON Schema of every field of an item, or of a job, in which there may be images."""
    properties = {**conditions.get("properties", {}), "negative": negative_schema(conditions)}
    if CANVAS in conditions:
        properties |= image_schema(conditions[CANVAS])
    return {"type": "object", "properties": properties}


def merge(plan: Plan, item: Item) -> dict[str, Any]:
    """Return an item with the sampling fields that it leaves to its job."""
    return {**shared_fields(cast(Mapping[str, Any], plan)), **item}


def shared_fields(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a job that hold for all of its items."""
    return {name: job[name] for name in SHARED if name in job}


def as_size(value: Sequence[float]) -> Size:
    """Return the size that a request gives; JSON Schema takes 64.0 for an integer."""
    width, height = value
    return int(width), int(height)


SHARED = (
    "steps", "solver", "spacing", "eta", "guidance_scale", "guidance_interval", "guidance_rescale", "negative", "image",
    "mask", "strength", "size", "variations", "decoder"
)  # fmt: skip


def sampling_mistakes(plan: Plan, item: Item, canvas: Canvas | None, where: str = "") -> list[str]:
    """Return a line for each of an item's sampling fields that does not fit the others, or the release.

    where: of the item in the request, such as "items[3]."; a field that the job gives has no place but its name.
    """
    fields = merge(plan, item)

    def line(name: str, permitted: str, *others: str) -> str:
        """others: fields that the mistake depends on."""
        place = where if any(one in item for one in (name, *others)) else ""
        return f"{place}{name}: {quote(fields[name])} is not allowed; permitted: {permitted}"

    mistakes = []
    low, high = fields["guidance_interval"]
    if low > high:
        mistakes.append(line("guidance_interval", "the lower number first"))
    if fields.get("eta") and fields["solver"] != STOCHASTIC:
        mistakes.append(line("eta", f"0 with the solver {fields['solver']}, or the solver {STOCHASTIC}", "solver"))
    if canvas is not None and "size" in fields and not canvas.fits(size := as_size(fields["size"])):
        width, height = canvas.nearest(size)
        sides = f"multiples of {canvas.unit} up to {MAX_SIDE}, and at most {canvas.most_pixels} pixels in all"
        mistakes.append(line("size", f"{sides}; the nearest is [{width}, {height}]"))
    if item.get("toward", {}).keys() == {"share"}:
        mistakes.append(line("toward", "with a seed or conditions that it leads to"))
    if "toward" in item and "variations" in fields:
        mistakes.append(line("variations", "without toward and interpolate, which choose the noise themselves"))
    for name in ("strength", "mask"):
        if name in fields and "image" not in fields:
            mistakes.append(line(name, "with an image to begin with, in the field image"))
    if "image" in fields and "strength" not in fields and "mask" not in fields:
        place, whose = (where, "") if "image" in item else ("", ", for the job or for each item")
        mistakes.append(f"{place}strength: missing; give a number from 0.01 to 1 for the image, or a mask{whose}")
    return mistakes
