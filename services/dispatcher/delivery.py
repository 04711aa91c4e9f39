"""Delivers one event: a signed POST to an address that was looked up once and checked.

The body is a CloudEvent (https://cloudevents.io, version 1.0, structured mode). The signature is that of Standard
Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 of "id.timestamp.body".
"""

import base64
import hashlib
import hmac
import http.client
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

from services.job_queue.leases import printable
from services.job_queue.webhooks import Event
from training.errors import DarkroomError

CONNECT_S = 5.0  # for each address
TIMEOUT_S = 10.0  # of each read and write
TOTAL_S = 15.0  # of an attempt: a receiver may send its answer byte by byte
ADDRESSES = 4  # of a name that are tried
TYPE = "darkroom.job.ended"

# Addresses that IANA calls global but that lead into a network: the metadata of Oracle Cloud, the host of Azure, and
# everything in IPv6 that is no global unicast address, such as fec0::/10 and ::127.0.0.1.
NOT_PUBLIC = [ipaddress.ip_network(network) for network in ("192.0.0.0/24", "168.63.129.16/32")]
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last four bytes are an address of IPv4


class DeliveryError(DarkroomError):
    """An event did not arrive; the message says why, without the secret."""


def check_url(url: str) -> SplitResult:
    """Return the parts of a webhook's address. Raises DeliveryError unless it is one that can be called."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment or port == 0:
        raise DeliveryError(
            f"url: {url[:200]!r} is not allowed; permitted: http:// or https://, a host, and a path, without a password"
        )
    return parts


def resolve(host: str, port: int, *, may_be_private: bool) -> list[str]:
    """Return the addresses of a host, best first. Raises DeliveryError if it has none, or one that is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DeliveryError(f"url: {host!r} cannot be resolved: {error}") from None
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not may_be_private and not _is_public(address):
            raise DeliveryError(
                f"url: {host} has the address {address}, which is not public; permitted: public addresses, "
                "unless an administrator adds the webhook with --private"
            )
    return addresses


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if (inner := parsed.ipv4_mapped or parsed.sixtofour) is not None:
            parsed = inner
        elif parsed in NAT64:
            parsed = ipaddress.IPv4Address(parsed.packed[-4:])
        elif parsed not in GLOBAL_UNICAST:
            return False
    return parsed.is_global and not parsed.is_multicast and not any(parsed in network for network in NOT_PUBLIC)


def deliver(event: Event, context: ssl.SSLContext | None = None) -> None:
    """Send an event. Raises DeliveryError unless it is answered with a status of 2xx. Redirects are not followed.

    The body of the answer is not read: it may have no end.
    """
    parts = check_url(event.url)
    assert parts.hostname is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    # The connection goes to an address that was checked: another look-up could have another answer.
    addresses = resolve(parts.hostname, port, may_be_private=event.may_be_private)
    connection = _Connection(parts.hostname, port, addresses[:ADDRESSES], parts.scheme == "https", context)
    body = json.dumps(cloud_event(event)).encode()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    timer = threading.Timer(TOTAL_S, connection.abort)
    timer.start()
    try:
        connection.request("POST", path, body, sign(event, body, int(time.time())))
        status = connection.getresponse().status
        if connection.is_over:  # the header ended because the connection did
            raise TimeoutError
    except (OSError, http.client.HTTPException, ValueError) as error:
        if connection.is_over:
            raise DeliveryError(f"{parts.hostname}: no answer within {TOTAL_S:g} s") from None
        reason = printable(f"{type(error).__name__}: {error}").replace("\n", " ").strip()
        raise DeliveryError(f"{parts.hostname}: {reason}") from None
    finally:
        timer.cancel()
        connection.close()
    if not 200 <= status < 300:
        raise DeliveryError(f"{parts.hostname} answered {status}; permitted: 200 to 299")


def cloud_event(event: Event) -> dict[str, Any]:
    """Return an event in the JSON format of CloudEvents. It is the same at each attempt."""
    return {
        "specversion": "1.0",
        "id": str(event.id),
        "source": f"/darkroom/tenants/{event.tenant}",
        "type": TYPE,
        "subject": str(event.job_id),
        "time": event.created_at.isoformat(),
        "datacontenttype": "application/json",
        "data": event.data,
    }


def sign(event: Event, body: bytes, timestamp: int) -> Mapping[str, str]:
    """Return the headers of a request, with its signature. timestamp: seconds since 1970."""
    signed = f"{event.id}.{timestamp}.".encode() + body
    digest = hmac.new(event.secret.encode(), signed, hashlib.sha256).digest()
    return {
        "Content-Type": "application/cloudevents+json; charset=utf-8",
        "User-Agent": "darkroom",
        "webhook-id": str(event.id),
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


class _Connection(http.client.HTTPConnection):
    """A connection to the first of `addresses` that accepts it, over TLS with the certificate of `host`."""

    def __init__(
        self, host: str, port: int, addresses: Sequence[str], is_secure: bool, context: ssl.SSLContext | None
    ) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S)
        self.default_port = 443 if is_secure else 80
        self.is_over = False
        self._addresses, self._is_secure, self._context = addresses, is_secure, context

    def abort(self) -> None:
        """End what another thread waits for."""
        self.is_over = True
        if (used := self.sock) is not None:
            with suppress(OSError):
                # Not the method of an SSLSocket, after which the other thread would go on without TLS.
                socket.socket.shutdown(used, socket.SHUT_RDWR)

    def connect(self) -> None:
        self._use(self._reach())
        if self._is_secure:
            context = self._context or ssl.create_default_context()
            # The handshake is a step of its own, with a socket that `abort` finds.
            secure = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self._use(secure)
            secure.do_handshake()

    def _reach(self) -> socket.socket:
        for address in self._addresses[:-1]:
            with suppress(OSError):
                return socket.create_connection((address, self.port), CONNECT_S)
            if self.is_over:
                raise TimeoutError
        return socket.create_connection((self._addresses[-1], self.port), CONNECT_S)

    def _use(self, reached: socket.socket) -> None:
        self.sock = reached
        self.sock.settimeout(TIMEOUT_S)
        if self.is_over:
            raise TimeoutError
