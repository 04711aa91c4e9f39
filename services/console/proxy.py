"""Sign-in by a trusted proxy that names the user in headers, such as oauth2-proxy or an ingress with single sign-on.

A header proves nothing unless it comes from the proxy, so it counts only from stated addresses, and only if an operator
has named it. Sessions of links and proxies do not mix: where a proxy is named, no link signs in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from fastapi import Request

from services.console.directory import Directory
from services.console.viewer import NotSignedIn, Viewer

HOW = "Open the console through the proxy that signs you in."
Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Proxy:
    """The proxy's headers and addresses. user_header, groups_header: names of headers; commas separate groups."""

    user_header: str
    groups_header: str | None
    networks: Sequence[Network]
    directory: Directory

    def viewer_of(self, request: Request) -> Viewer:
        """Return whom the proxy names. Raises NotSignedIn, and HTTPException for a person without a tenant."""
        if request.client is None or not self._is_proxy(request.client.host):
            raise NotSignedIn(HOW)
        names = request.headers.getlist(self.user_header)
        if len(names) != 1 or not names[0].strip():  # two: one of them passed through the proxy
            raise NotSignedIn(HOW)
        return self.directory.viewer(names[0].strip(), self._groups(request))

    def _is_proxy(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address  # of IPv4, on a socket for both versions
        return any(address in network for network in self.networks if network.version == address.version)

    def _groups(self, request: Request) -> list[str]:
        if self.groups_header is None:
            return []
        values = request.headers.getlist(self.groups_header)
        if len(values) > 1:
            raise NotSignedIn(HOW)
        return [group.strip() for value in values for group in value.split(",") if group.strip()]
