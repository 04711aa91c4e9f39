"""The addresses on which a process serves."""

import socket


def find_family(host: str) -> tuple[str, socket.AddressFamily]:
    """Return the address to bind for a host, and its family.

    "::" is every address of IPv4 and IPv6. On a machine without IPv6 it is every address of IPv4.
    """
    if host == "::" and not socket.has_dualstack_ipv6():
        return "0.0.0.0", socket.AF_INET  # the caller asked for every address
    return host, socket.AF_INET6 if ":" in host else socket.AF_INET
