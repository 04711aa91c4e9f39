"""The settings of the console: its address, and how users sign in."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, SecretStr, ValidationInfo, field_validator

from services.settings import DatabaseSettings, StoreSettings, build, split_names

TenantName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]

HEADER = r"^[A-Za-z0-9-]{1,100}$"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ISSUER_FORM = "permitted: https://HOST or https://HOST/PATH, as the provider names itself; http on loopback alone"


def parse_object(value: Any) -> Any:
    """Return an object that is written as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError('not JSON; permitted: an object, such as {"team-a": "shop"}') from None


def is_protected(url: str) -> bool:
    """Return whether a URL is of https, or of http on loopback."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK))


def _check_issuer(url: str) -> str:
    try:
        parts, is_good = urlsplit(url), is_protected(url)
    except ValueError:
        raise ValueError(f"not a URL; {ISSUER_FORM}") from None
    if not is_good or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{url!r} is not allowed; {ISSUER_FORM}")
    return url


class ConsoleSettings(StoreSettings, DatabaseSettings):
    """All settings of the console."""

    console_host: str = Field("127.0.0.1", description="the address to serve pages on")
    console_port: int = Field(8520, ge=0, le=65535, description="the port to serve pages on; 0: a free one")
    console_hosts: Annotated[list[str], BeforeValidator(split_names)] = Field(
        [], description="the host names under which browsers reach the console, in addition to loopback"
    )
    console_secret: SecretStr | None = Field(
        None, min_length=32, description="key that signs sessions, at least 32 characters; unset: random at each start"
    )
    console_tenant: TenantName = Field("default", description="the tenant of those who open the sign-in link")
    console_proxy_user_header: str | None = Field(
        None, pattern=HEADER, description="the header in which a trusted proxy names the viewer; unset: links sign in"
    )
    console_proxy_groups_header: str | None = Field(
        None, pattern=HEADER, description="the header in which the proxy lists the viewer's groups, as a,b"
    )
    console_proxy_networks: Annotated[list[IPvAnyNetwork], BeforeValidator(split_names)] = Field(
        [], validate_default=True, description="the addresses of the proxy, such as 10.0.0.0/8"
    )
    console_tenants: Annotated[dict[str, TenantName], BeforeValidator(parse_object)] = Field(
        {}, description='the tenant of each group, as JSON: {"team-a": "shop"}; "*": every user'
    )
    console_operators: Annotated[list[str], BeforeValidator(split_names)] = Field(
        [], description="the groups whose members are operators"
    )
    console_oidc_tenant_claim: str | None = Field(
        None, max_length=200, description="the claim that names the tenant; unset: the groups decide"
    )
    console_oidc_user_claim: str = Field(
        "preferred_username", max_length=200, description="the claim with the displayed name"
    )
    console_oidc_groups_claim: str = Field("groups", max_length=200, description="the claim that lists the groups")
    console_oidc_scopes: Annotated[list[str], BeforeValidator(split_names)] = Field(
        ["openid", "profile", "email"], description="the scopes to request in addition to openid"
    )
    console_oidc_client_id: str | None = Field(
        None, max_length=1000, description="the console's client id at the provider"
    )
    console_oidc_client_secret: SecretStr | None = Field(
        None, description="the console's client secret; unset: a public client"
    )
    console_oidc_issuer: Annotated[str, AfterValidator(_check_issuer)] | None = Field(
        None, validate_default=True, description="the URL of the OpenID Connect provider"
    )
    console_runs: Path | None = Field(None, description="a folder of training runs to show to operators")

    @field_validator("console_proxy_networks")
    @classmethod
    def _is_narrow(cls, networks: list[IPvAnyNetwork], info: ValidationInfo) -> list[IPvAnyNetwork]:
        if info.data.get("console_proxy_user_header") and not networks:
            raise ValueError(
                "required with DARKROOM_CONSOLE_PROXY_USER_HEADER, because anyone could send that header otherwise"
            )
        if any(network.prefixlen == 0 for network in networks):
            raise ValueError("a network of all addresses is not allowed, because anyone could name a viewer")
        return networks

    @field_validator("console_oidc_issuer")
    @classmethod
    def _is_complete(cls, issuer: str | None, info: ValidationInfo) -> str | None:
        """Check what goes with the provider. A field that is missing in `data` was refused itself."""
        given = info.data
        if issuer is None:
            if given.get("console_oidc_client_id") or given.get("console_oidc_client_secret"):
                raise ValueError(
                    "required with DARKROOM_CONSOLE_OIDC_CLIENT_ID and DARKROOM_CONSOLE_OIDC_CLIENT_SECRET"
                )
            return None
        if given.get("console_proxy_user_header"):
            raise ValueError("cannot be given with DARKROOM_CONSOLE_PROXY_USER_HEADER; permitted: one of them")
        if given.get("console_oidc_client_id", "") is None:
            raise ValueError("needs DARKROOM_CONSOLE_OIDC_CLIENT_ID, the console's client id at the provider")
        claim, tenants = given.get("console_oidc_tenant_claim", ""), given.get("console_tenants", {})
        if claim is None and tenants == {}:
            raise ValueError(
                "needs DARKROOM_CONSOLE_TENANTS, the tenant of each group, or DARKROOM_CONSOLE_OIDC_TENANT_CLAIM"
            )
        if claim and tenants:
            raise ValueError(
                "DARKROOM_CONSOLE_TENANTS and DARKROOM_CONSOLE_OIDC_TENANT_CLAIM are both given; permitted: one of them"
            )
        return issuer


def load_console(environ: Mapping[str, str] = os.environ) -> ConsoleSettings:
    """Return the settings of the console. Raises SettingsError."""
    return build(ConsoleSettings, "console", environ)
