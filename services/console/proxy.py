"""Viewers that a trusted proxy names in headers: oauth2-proxy, or an ingress with single sign-on.

A header proves nothing unless it comes from the proxy, so it counts only from stated addresses, and only if an operator
has named it. Sessions of links and proxies do not mix: where a proxy is named, no link signs in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from fastapi import HTTPException, Request

from services.console.viewer import NotSignedIn, Viewer

LONGEST_NAME = 200
HOW = "Open the console through the proxy that signs you in."
Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Proxy:
    """The proxy's headers and addresses, and which groups may see what.

    user_header, groups_header: names of headers; groups are separated by commas. tenants: the tenant of each group;
    "*" is everybody. operators: groups whose members operate the service.
    """

    user_header: str
    groups_header: str | None
    networks: Sequence[Network]
    tenants: Mapping[str, str]
    operators: Sequence[str]

    def viewer_of(self, request: Request) -> Viewer:
        """Return whom the proxy names. Raises NotSignedIn, and HTTPException for a person without a tenant."""
        if request.client is None or not self._is_proxy(request.client.host):
            raise NotSignedIn(HOW)
        names = request.headers.getlist(self.user_header)
        if len(names) != 1 or not names[0].strip():  # two: one of them passed through the proxy
            raise NotSignedIn(HOW)
        name = names[0].strip()[:LONGEST_NAME]
        groups = self._groups(request)
        found = list(dict.fromkeys(self.tenants[group] for group in [*groups, "*"] if group in self.tenants))
        if not found:
            raise HTTPException(403, "No group of yours has a tenant. Ask an operator of Darkroom to add one.")
        return Viewer(name, found[0], any(group in self.operators for group in groups))

    def _is_proxy(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self.networks if network.version == address.version)

    def _groups(self, request: Request) -> list[str]:
        if self.groups_header is None:
            return []
        values = request.headers.getlist(self.groups_header)
        if len(values) > 1:
            raise NotSignedIn(HOW)
        return [group.strip() for value in values for group in value.split(",") if group.strip()]
