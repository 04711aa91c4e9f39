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
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

from services.job_queue.webhooks import Event
from training.errors import DarkroomError

TIMEOUT_S = 10.0  # of each read and write
TOTAL_S = 15.0  # of an attempt: a receiver may send its answer byte by byte
MAX_ANSWER = 1_000  # bytes that are read
TYPE = "darkroom.job.ended"


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


def resolve(host: str, port: int, *, may_be_private: bool) -> str:
    """Return an address of a host. Raises DeliveryError if it has none, or one that is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DeliveryError(f"url: {host} cannot be resolved: {error}") from None
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not may_be_private and not _is_public(address):
            raise DeliveryError(
                f"url: {host} has the address {address}, which is not public; permitted: public addresses, "
                "unless an administrator adds the webhook with --private"
            )
    return addresses[0]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None)
    return parsed.is_global and not parsed.is_multicast and (mapped is None or mapped.is_global)


def deliver(event: Event, context: ssl.SSLContext | None = None) -> None:
    """Send an event. Raises DeliveryError unless it is answered with a status of 2xx. Redirects are not followed."""
    parts = check_url(event.url)
    assert parts.hostname is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    # The connection goes to the address that was checked: another look-up could have another answer.
    address = resolve(parts.hostname, port, may_be_private=event.may_be_private)
    connection = _Connection(parts.hostname, port, address, parts.scheme == "https", context)
    body = json.dumps(cloud_event(event)).encode()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    timer = threading.Timer(TOTAL_S, connection.abort)
    timer.start()
    try:
        connection.request("POST", path, body, sign(event, body, int(time.time())))
        answer = connection.getresponse()
        answer.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeliveryError(f"{parts.hostname}: {type(error).__name__}: {error}") from None
    finally:
        timer.cancel()
        connection.close()
    if not 200 <= answer.status < 300:
        raise DeliveryError(f"{parts.hostname} answered {answer.status}; permitted: 200 to 299")


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
    """A connection to `address`, over TLS with the certificate of `host`."""

    def __init__(self, host: str, port: int, address: str, is_secure: bool, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S)
        self.default_port = 443 if is_secure else 80
        self._address, self._is_secure, self._context = address, is_secure, context

    def abort(self) -> None:
        """End what another thread waits for."""
        if self.sock is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), TIMEOUT_S)
        if self._is_secure:
            context = self._context or ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
