"""Validates a request as a dispatcher would: its plan, its mistakes, and the cost of each stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from services.errors import quote
from services.job_queue.plan import Plan
from services.job_queue.prospects import find_limits, find_pace
from services.job_requests.chains import costs_of
from services.job_requests.condition_images import check_items
from services.job_requests.image_spec import image_cost, image_spec
from services.job_requests.schema import Limits, plan_request
from services.job_requests.strict_json import RequestError
from services.registry import viewing
from services.registry.chains import plan_chain
from services.registry.releases import ReleaseRow, request_rules


@dataclass(frozen=True)
class StageCost:
    """What a stage of a job takes. model: its release as name@version. evaluations: of all images together."""

    model: str
    evaluations: int


@dataclass(frozen=True)
class CheckedRequest:
    """A request that is valid. stages: one, or those of a chain."""

    plan: Plan
    stages: Sequence[StageCost]

    @property
    def items(self) -> int:
        """How many items the job has."""
        return len(self.plan["items"])

    @property
    def images(self) -> int:
        """How many images the job has."""
        return self.items * int(self.plan["images_per_item"])

    @property
    def evaluations(self) -> int:
        """How many rows of the network the job takes, in all stages."""
        return sum(stage.evaluations for stage in self.stages)


def check_request(
    connection: Connection, release: ReleaseRow, request: Mapping[str, Any], bucket: str
) -> CheckedRequest:
    """Check a request as planning will. Objects of the bucket are not read. Raises RequestError for each mistake.

    connection: of a viewer of the console. bucket: of the service. An input_uri is refused, since its lines are not
    read.
    """
    if "input_uri" in request:
        raise RequestError("input_uri: its lines are not read here; submit the request with dry_run instead")
    rules = request_rules(release.manifest)
    limits = Limits(**vars(find_limits(connection)), bucket=bucket)
    plan = plan_request(request, rules, limits)
    releases = [release]
    if "then" in plan:
        releases += [_find_stage(connection, number, entry) for number, entry in enumerate(plan["then"])]
        plan_chain(plan, releases).check_items()
    check_items(plan["items"], rules, limits, job=plan)
    return CheckedRequest(plan, _stage_costs(plan, releases))


def expect_seconds(connection: Connection, model: str, checked: CheckedRequest) -> float | None:
    """Return how long a job takes at the pace of the tenant's last jobs of its release, if that is known.

    The images of those jobs had one stage, so it says nothing about a chain.
    """
    pace = find_pace(connection, model) if len(checked.stages) == 1 else None
    return checked.images / pace if pace else None


def _find_stage(connection: Connection, number: int, entry: Mapping[str, Any]) -> ReleaseRow:
    release = viewing.find_reference(connection, entry["model"])
    if release is None or release.kind != "diffusion":
        permitted = ", ".join(viewing.list_references(connection))
        raise RequestError(f"then[{number}].model: {quote(entry['model'])} is not allowed; permitted: {permitted}")
    return release


def _stage_costs(plan: Plan, releases: Sequence[ReleaseRow]) -> list[StageCost]:
    per_item = int(plan["images_per_item"])
    specs = (image_spec(plan, item, number * per_item) for number, item in enumerate(plan["items"]))
    images = len(plan["items"]) * per_item
    costs = [per_item * sum(map(image_cost, specs)), *(images * cost for cost in costs_of(plan))]
    return [StageCost(f"{one.name}@{one.version}", cost) for one, cost in zip(releases, costs, strict=True)]
