"""Reads the claims of an identity token: the user's name, tenant and groups."""

import re
from collections.abc import Mapping
from typing import Any

from services.console.parts import Oidc
from services.console.viewer import SignInRefused, Viewer

TENANT = re.compile(r"[a-z][a-z0-9_-]{0,62}")
MOST_GROUPS = 1_000
ASK = "Ask an operator of Darkroom, or of the identity provider."


def viewer_of(oidc: Oidc, claims: Mapping[str, Any]) -> Viewer:
    """Return whom claims describe. Raises SignInRefused, and HTTPException for a person whose groups have no tenant.

    Groups are a list of names, or one name. The claim of the tenant is its name.
    """
    name = find_claim(claims, oidc.user)
    groups = find_claim(claims, oidc.groups)
    tenant = None
    if oidc.tenant is not None:
        tenant = find_claim(claims, oidc.tenant)
        if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
            what = "has no claim" if tenant is None else "does not name a tenant in the claim"
            raise SignInRefused(f"You have no tenant: your identity token {what} {oidc.tenant}. {ASK}")
    elif groups is None and "*" not in oidc.directory.tenants:
        raise SignInRefused(f"You have no tenant: your identity token has no claim {oidc.groups}. {ASK}")
    listed = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
    texts = [one for one in listed[:MOST_GROUPS] if isinstance(one, str)]
    return oidc.directory.viewer(name if isinstance(name, str) and name else str(claims["sub"]), texts, tenant)


def find_claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by a path of names, such as realm_access.roles; None if it is missing."""
    if name in claims:
        return claims[name]
    first, dot, rest = name.partition(".")
    inner = claims.get(first) if dot else None
    return find_claim(inner, rest) if isinstance(inner, Mapping) else None
