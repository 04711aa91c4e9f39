"""Chains: the images of one release are the start images of the next one, or its condition.

A plan of a chain has a stage for each entry of `then`, after stage 0, which is the rest of the plan. This module says
what a stage makes of an image; `chain_rules` checks that stages fit each other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from services.job_queue.plan import Item, Plan
from services.job_requests.image_files import MAX_BYTES
from services.job_requests.image_spec import ImageSpec, image_cost, image_spec
from services.job_requests.sampling_fields import SHARED
from services.storage.object_store import ObjectStore

MAX_THEN = 4  # stages after the first one
THEN = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_THEN,
    "items": {  # and the fields of its own release, which `chain_rules` checks
        "type": "object",
        "properties": {"model": {"type": "string", "minLength": 1, "maxLength": 200}, "keep": {"type": "boolean"}},
        "required": ["model"],
    },
}
TAKES = "takes"  # the field of a planned entry that names the condition, or `image`, that takes the images before it
NOT_INHERITED = frozenset({*SHARED, "id", "metadata", "seed", "toward"})  # fields of an item that are of stage 0 alone


@dataclass(frozen=True)
class Stage:
    """A stage of a job's plan. number: from 0. inputs: key and sha256 of the images before it, by index."""

    plan: Plan
    number: int
    inputs: Mapping[str, Sequence[str]]

    @property
    def is_last(self) -> bool:
        """Whether its images are those of the job."""
        return self.number == len(self.plan["then"])

    @property
    def takes(self) -> str | None:
        """The field that takes the image before it; None for stage 0."""
        return None if self.number == 0 else str(self._entry[TAKES])

    @property
    def _entry(self) -> Mapping[str, Any]:
        return self.plan["then"][self.number - 1]

    def spec(self, item: Item, index: int) -> ImageSpec:
        """Return what image `index` is in this stage."""
        first = image_spec(self.plan, item, index)
        if self.number == 0:
            return first
        own = entry_spec(self._entry)
        return replace(own, index=index, item=first.item, seed=first.seed, name=first.name, stage=self.number)

    def read_input(self, store: ObjectStore, index: int) -> bytes:
        """Return the image that image `index` is made of in a later stage. Raises ValueError if it is gone."""
        key, sha256 = self.inputs[str(index)]
        body = store.get_at_most(key, MAX_BYTES)
        if hashlib.sha256(body).hexdigest() != sha256:
            raise ValueError(f"{store.uri(key)} was replaced while its job ran")
        return body

    def fields(self, item: Item) -> dict[str, Any]:
        """Return the conditions and sampling fields of an item in a later stage, but for the image that it takes.

        A condition that the entry does not give is that of the item, also on its way toward another one.
        """
        inherited = {name: value for name, value in item.items() if name not in NOT_INHERITED}
        toward = {name: value for name, value in item.get("toward", {}).items() if name not in {*self._entry, "seed"}}
        return {**inherited, **({"toward": toward} if len(toward) > 1 else {}), **self._entry}


def _as_plan(entry: Mapping[str, Any]) -> Plan:
    return cast(Plan, {**entry, "images_per_item": 1, "seed": 0})


def entry_spec(entry: Mapping[str, Any]) -> ImageSpec:
    """Return what each image of a planned entry is, but for its index, item, seed and name."""
    return image_spec(_as_plan(entry), {}, 0)


def costs_of(plan: Plan) -> list[int]:
    """Return the network evaluations of each image in the stages after the first one."""
    return [image_cost(entry_spec(entry)) for entry in plan.get("then", ())]


def request_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a request that a planned one comes from, with its defaults."""
    return {name: value for name, value in entry.items() if name not in (TAKES, "own_area")}
