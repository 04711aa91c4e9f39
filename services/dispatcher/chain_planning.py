"""Planning of chains: the releases of their stages, and what the queue records of them."""

from collections.abc import Sequence
from typing import cast

from sqlalchemy import Connection

from services.dispatcher.estimating import Extent, StageWork
from services.job_queue import chains
from services.job_queue.chains import PlannedStage
from services.job_queue.plan import Plan
from services.job_queue.planning import SubmittedJob
from services.job_requests.chains import costs_of, entry_spec
from services.job_requests.image_spec import evaluations_in_turn, image_cost, image_spec
from services.job_requests.sampling_fields import DECODER
from services.registry import releases
from services.registry.releases import RegistryError, ReleaseRow


def find_diffusion(connection: Connection, reference: str, permitted: Sequence[str]) -> ReleaseRow:
    """Return the diffusion release of a reference. Raises RegistryError, which lists only those that are permitted."""
    release = releases.find(connection, reference, permitted=permitted)
    if release.kind != "diffusion":
        raise RegistryError(f"model: {reference!r} is an {release.kind}; permitted: diffusion releases")
    return release


def find_chain(connection: Connection, job: SubmittedJob, plan: Plan, first: ReleaseRow) -> list[ReleaseRow]:
    """Return the releases of a chain's stages, the first one included; those of a later revision are settled."""
    if job.plan is not None:
        return [releases.find_by_id(connection, one) for one in chains.find_releases(connection, job.id)]
    found = [first]
    for number, entry in enumerate(plan["then"]):
        try:
            found.append(find_diffusion(connection, entry["model"], job.permitted_releases))
        except RegistryError as error:
            raise RegistryError(f"then[{number}].{error}") from None
    return found


def stage_work(
    plan: Plan, first: ReleaseRow, stages: Sequence[ReleaseRow], images: int, total: int, extent: Extent
) -> list[StageWork]:
    """Return what each stage of a job does for so many images; one stage if it is no chain.

    stages: as `find_chain` returns them. total: evaluations of all stages. extent: of the first one.
    """
    later = []
    for release, entry in zip(stages[1:], plan.get("then", ()), strict=True):
        spec = entry_spec(entry)
        own = Extent(images * spec.growth, evaluations_in_turn(spec), float(spec.growth != 1))
        later.append(StageWork(release, images * image_cost(spec), spec.decoder, own))
    rest = total - sum(one.evaluations for one in later)
    return [StageWork(first, rest, plan.get("decoder", DECODER), extent), *later]


def planned_stages(plan: Plan, stages: Sequence[ReleaseRow]) -> list[PlannedStage]:
    """Return the stages as the queue records them. The cost of stage 0 is that of an item without fields of its own."""
    without_names = cast(Plan, {name: value for name, value in plan.items() if name != "output"})
    costs = [image_cost(image_spec(without_names, {}, 0)), *costs_of(plan)]
    keeps = [*(bool(entry["keep"]) for entry in plan["then"]), True]  # an entry says it of the images that it takes
    return [
        PlannedStage(number, f"{one.name}@{one.version}", one.id, one.digest, cost, keep, number == len(stages) - 1)
        for number, (one, cost, keep) in enumerate(zip(stages, costs, keeps, strict=True))
    ]
