"""The requests that a distilled release permits: the samplings that it was trained for."""

from typing import Any

from services.job_requests.messages import JsonSchema
from training.model.distilled_solvers import DISTILLED_SOLVERS
from training.model.release import DISTILLED, Distilled

REASON = "this release was distilled to few steps"
ONE_ROW = "this release was distilled, so an evaluation has one answer, with guidance in it"


def read_distilled(conditions: JsonSchema) -> Distilled | None:
    """Return how a release that was distilled may be sampled; None for another one. conditions: of the release."""
    return Distilled.of(conditions[DISTILLED]) if DISTILLED in conditions else None


def restrict(fields: dict[str, Any], distilled: Distilled) -> dict[str, Any]:
    """Return the JSON Schema of each sampling field with what a distilled release permits."""
    low, high = distilled.guidance
    return {
        **fields,
        "steps": {"enum": list(distilled.steps)},
        "solver": {"enum": sorted(DISTILLED_SOLVERS)},
        "spacing": {"const": "trailing", "$comment": REASON},
        "eta": {"const": 0, "$comment": REASON},
        "guidance_scale": {"type": "number", "minimum": low, "maximum": high},
        "guidance_interval": {"const": [0, 1], "$comment": ONE_ROW},
        "guidance_rescale": {"const": 0, "$comment": ONE_ROW},
        "negative": {"not": {}, "$comment": ONE_ROW},
    }


def choose_defaults(distilled: Distilled) -> dict[str, Any]:
    """Return the best sampling of a distilled release, which a request that says nothing gets."""
    (solver,) = DISTILLED_SOLVERS
    return {"steps": distilled.best_steps, "guidance_scale": distilled.best_guidance, "solver": solver}
