"""Viewers that a trusted proxy names."""

from ipaddress import ip_network
from typing import Any

import pytest
from fastapi import HTTPException
from starlette.requests import Request

from services.console.directory import Directory
from services.console.proxy import Proxy
from services.console.viewer import NotSignedIn, Viewer
from services.console_settings import load_console
from services.settings import SettingsError

PROXY = Proxy(
    "X-Forwarded-User",
    "X-Forwarded-Groups",
    [ip_network("10.1.0.0/16"), ip_network("fd00::/8")],
    Directory({"team-a": "shop", "team-b": "press"}, ["admins"]),
)
BASIC = {
    "DARKROOM_DATABASE_URL": "postgresql://a:b@h/d",
    "DARKROOM_S3_BUCKET": "b",
    "DARKROOM_ROOT": "/nowhere",
    "DARKROOM_CONSOLE_PROXY_USER_HEADER": "X-Forwarded-User",
}


def request(*headers: tuple[str, str], host: str = "10.1.2.3") -> Request:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    return Request({"type": "http", "client": (host, 1), "headers": raw})


ADA, TEAM_A = ("X-Forwarded-User", "ada"), ("X-Forwarded-Groups", "other, team-a")


def test_groups_choose_the_tenant_and_the_rights() -> None:
    assert PROXY.viewer_of(request(ADA, TEAM_A)) == Viewer("ada", "shop", False)
    admin = request(ADA, ("X-Forwarded-Groups", "team-b,admins"), host="fd00::7")
    assert PROXY.viewer_of(admin) == Viewer("ada", "press", True)


def test_an_address_of_ipv4_is_the_same_on_a_socket_for_both_versions() -> None:
    """There it appears inside an address of IPv6."""
    assert PROXY.viewer_of(request(ADA, TEAM_A, host="::ffff:10.1.2.3")) == Viewer("ada", "shop", False)


@pytest.mark.parametrize(
    "forged",
    [
        request(ADA, TEAM_A, host="192.168.0.1"),
        request(ADA, TEAM_A, host="::ffff:192.168.0.1"),
        request(ADA, TEAM_A, host="testclient"),
        request(TEAM_A),
        request(("X-Forwarded-User", " "), TEAM_A),
        request(ADA, ("X-Forwarded-User", "eve"), TEAM_A),
        request(ADA, TEAM_A, ("X-Forwarded-Groups", "admins")),
    ],
)
def test_headers_of_others_name_nobody(forged: Request) -> None:
    with pytest.raises(NotSignedIn):
        PROXY.viewer_of(forged)


def test_a_person_without_a_tenant_is_told_whom_to_ask() -> None:
    with pytest.raises(HTTPException, match="Ask an operator"):
        PROXY.viewer_of(request(ADA, ("X-Forwarded-Groups", "nobody")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "DARKROOM_CONSOLE_PROXY_NETWORKS: required with"),
        ({"DARKROOM_CONSOLE_PROXY_NETWORKS": "0.0.0.0/0"}, "DARKROOM_CONSOLE_PROXY_NETWORKS: a network of all"),
        ({"DARKROOM_CONSOLE_PROXY_NETWORKS": "everywhere"}, "DARKROOM_CONSOLE_PROXY_NETWORKS"),
        ({"DARKROOM_CONSOLE_PROXY_NETWORKS": "10.0.0.0/8", "DARKROOM_CONSOLE_TENANTS": "a"}, "TENANTS: not JSON"),
        ({"DARKROOM_CONSOLE_SECRET": "short"}, "DARKROOM_CONSOLE_SECRET"),
    ],
)
def test_settings_that_trust_too_much_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as refused:
        load_console({**BASIC, **changes})
    assert "short" not in str(refused.value)
