"""The fields that say how images are sampled. A job gives them for all of its items; an item may give its own."""

from collections.abc import Mapping
from typing import Any, cast

from services.job_queue.plan import Item, Plan
from services.job_requests.image_rules import KEPT_IN_NULL
from services.job_requests.messages import JsonSchema
from training.model.solvers import SOLVERS

MAX_STEPS = 1_000
MAX_GUIDANCE = 50
SPACINGS = (
    "ays", "beta", "exponential", "karras", "leading", "linspace", "shifted", "sigma_uniform", "trailing"
)  # fmt: skip

GUIDANCE = {"type": "number", "minimum": 0, "maximum": MAX_GUIDANCE}
UNTRAINED = "this release was trained without condition dropout, so it cannot be guided"
UNGUIDED = {"const": 1, "$comment": UNTRAINED}
NOT_NEGATIVE = {"not": {}, "$comment": UNTRAINED}
NO_CONDITIONS = {"not": {}, "$comment": "this release has no conditions to lead away from"}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
STOCHASTIC = "ddim"  # the solver that takes an eta; the noise of the others is their own


def sampling_schema(conditions: JsonSchema) -> dict[str, Any]:
    """Return the JSON Schema of each field.

    conditions: the JSON Schema of the release's conditions, and under `guided` whether it can be guided.
    """
    guided = conditions.get("guided", True)
    return {
        "steps": {"type": "integer", "minimum": 1, "maximum": MAX_STEPS},
        "solver": {"enum": sorted(SOLVERS)},
        "spacing": {"enum": list(SPACINGS)},
        "eta": SHARE,
        "guidance_scale": GUIDANCE if guided else UNGUIDED,
        "guidance_interval": {"type": "array", "items": SHARE, "minItems": 2, "maxItems": 2},
        "guidance_rescale": SHARE,
        "negative": negative_schema(conditions) if guided or not conditions.get("properties") else NOT_NEGATIVE,
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


def item_rules(conditions: JsonSchema) -> dict[str, Any]:
    """Return the JSON Schema of every field of an item, or of a job, in which there may be images."""
    return {
        "type": "object",
        "properties": {**conditions.get("properties", {}), "negative": negative_schema(conditions)},
    }


def merge(plan: Plan, item: Item) -> dict[str, Any]:
    """Return an item with the sampling fields that it leaves to its job."""
    given = cast(Mapping[str, Any], plan)
    return {**{name: given[name] for name in SHARED if name in given}, **item}


SHARED = (
    "steps", "solver", "spacing", "eta", "guidance_scale", "guidance_interval", "guidance_rescale", "negative"
)  # fmt: skip


def sampling_mistakes(plan: Plan, item: Item, where: str = "") -> list[str]:
    """Return a line for each of an item's sampling fields that does not fit the others.

    where: of the item in the request, such as "items[3]."; a field that the job gives has no place but its name.
    """
    fields = merge(plan, item)

    def line(name: str, permitted: str) -> str:
        return f"{where if name in item else ''}{name}: {fields[name]} is not allowed; permitted: {permitted}"

    mistakes = []
    low, high = fields["guidance_interval"]
    if low > high:
        mistakes.append(line("guidance_interval", "the lower number first"))
    if fields.get("eta") and fields["solver"] != STOCHASTIC:
        mistakes.append(line("eta", f"0 with the solver {fields['solver']}, or the solver {STOCHASTIC}"))
    return mistakes
