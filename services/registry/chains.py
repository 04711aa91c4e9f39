"""Chains of published releases: whether their stages fit each other."""

from collections.abc import Sequence

from services.job_queue.plan import Plan
from services.job_requests.chain_rules import ChainCheck, ChainRelease, plan_entries
from services.registry.releases import ReleaseRow, request_rules


def plan_chain(plan: Plan, stages: Sequence[ReleaseRow]) -> ChainCheck:
    """Complete the entries of a new plan, and return what checks its items. Raises RequestError.

    stages: the releases of a chain, the first one included.
    """
    known = [_chain_release(one) for one in stages]
    plan["then"] = plan_entries(plan, known)
    return ChainCheck(plan, known)


def check_of(plan: Plan, stages: Sequence[ReleaseRow]) -> ChainCheck | None:
    """Return what checks the items of a plan; None if it is no chain."""
    return ChainCheck(plan, [_chain_release(one) for one in stages]) if stages else None


def _chain_release(release: ReleaseRow) -> ChainRelease:
    return ChainRelease(f"{release.name}@{release.version}", request_rules(release.manifest))
