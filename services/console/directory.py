"""The tenant of a user, and whether the user is an operator, by the groups that a proxy or a provider names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import HTTPException

from services.console.viewer import Viewer

LONGEST_NAME = 200


@dataclass(frozen=True)
class Directory:
    """The tenant of each group, "*" for everybody, and the groups whose members are operators."""

    tenants: Mapping[str, str]
    operators: Sequence[str]

    def viewer(self, name: str, groups: Sequence[str], tenant: str | None = None) -> Viewer:
        """Return the viewer. tenant: the viewer's, if it does not come from a group.

        Raises HTTPException for a person without a tenant. The first group that has one decides.
        """
        found = [self.tenants[group] for group in [*groups, "*"] if group in self.tenants]
        if tenant is None and not found:
            raise HTTPException(403, "No group of yours has a tenant. Ask an operator of Darkroom to add one.")
        is_operator = any(group in self.operators for group in groups)
        return Viewer(name[:LONGEST_NAME], tenant or found[0], is_operator)
