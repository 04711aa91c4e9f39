"""An event is signed, goes to the address that was checked, and to no private one."""

import base64
import hashlib
import hmac
import json
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.dispatcher import delivery
from services.dispatcher.delivery import DeliveryError, check_url, deliver
from services.job_queue.webhooks import Event
from tests.support.receiver import receiver

SECRET = "a-secret-that-signs-what-is-sent"


def event(url: str, *, may_be_private: bool = True) -> Event:
    data = {"job": "j", "state": "succeeded"}
    return Event(
        uuid.uuid4(), "studio", url, uuid.uuid4(), data, 1, datetime(2030, 1, 31, tzinfo=UTC), may_be_private, SECRET
    )


def test_an_event_arrives_as_a_signed_cloud_event() -> None:
    with receiver() as heard:
        sent = event(f"{heard.url}/hooks?team=a")
        deliver(sent)
    ((path, headers, body),) = heard.arrived
    assert path == "/hooks?team=a"
    assert headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert json.loads(body) == {
        "specversion": "1.0",
        "id": str(sent.id),
        "source": "/darkroom/tenants/studio",
        "type": "darkroom.job.ended",
        "subject": str(sent.job_id),
        "time": "2030-01-31T00:00:00+00:00",
        "datacontenttype": "application/json",
        "data": {"job": "j", "state": "succeeded"},
    }
    assert SECRET not in repr(sent)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "2130706433", "0x7f000001", "224.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[fd00::1]", "[fe80::1]",
        "[2002:7f00:1::]", "[64:ff9b::10.0.0.1]", "[64:ff9b:1::a00:1]", "[::127.0.0.1]", "[fec0::1]", "192.0.0.192",
        "168.63.129.16",
    ],
)  # fmt: skip
def test_private_addresses_are_refused(host: str) -> None:
    with pytest.raises(DeliveryError, match=r"has the address .* which is not public; permitted: public addresses"):
        deliver(event(f"http://{host}:1/", may_be_private=False))


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose second look-up has another answer."""
    ask, asked = socket.getaddrinfo, []

    def rebind(host: str, port: int, *args: Any, **options: Any) -> Any:
        if host != "rebinding.test":
            return ask(host, port, *args, **options)
        asked.append(host)
        return ask("127.0.0.1" if len(asked) == 1 else "127.9.9.9", port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    with receiver() as heard:
        deliver(event(heard.url.replace("127.0.0.1", "rebinding.test")))
    assert asked == ["rebinding.test"]
    assert heard.arrived[0][1]["host"].startswith("rebinding.test")


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 500, 503])
def test_other_answers_are_failures_and_redirects_are_not_followed(status: int) -> None:
    with receiver() as heard:
        heard.statuses = [status]
        with pytest.raises(DeliveryError, match=f"127.0.0.1 answered {status}; permitted: 200 to 299"):
            deliver(event(f"{heard.url}/hook"))
    assert [path for path, _, _ in heard.arrived] == ["/hook"]


def test_an_address_that_does_not_answer_is_named_without_the_secret() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(DeliveryError, match=r"127.0.0.1: ConnectionRefusedError") as error:
            deliver(event(f"http://127.0.0.1:{unused.getsockname()[1]}/"))
    assert SECRET not in str(error.value)


@contextmanager
def dripping(begin: bytes, drop: bytes) -> Iterator[int]:
    """A receiver that sends `begin` and then `drop` again and again. Yields its port."""
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            peer, _ = server.accept()
            with peer, suppress(OSError):
                peer.sendall(begin)
                while not is_over.wait(0.05):
                    peer.send(drop)

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            is_over.set()
            thread.join()


@pytest.mark.parametrize(
    ("scheme", "begin", "drop"),
    [
        ("http", b"", b"H"),
        ("http", b"HTTP/1.0 200 OK\r\nA: ", b"a"),
        ("http", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("https", b"\x16\x03\x03\x40\x00", b"\x02"),  # a record of the handshake of 16 KiB
    ],
    ids=["status", "header", "continue", "handshake"],
)
def test_an_answer_byte_by_byte_is_not_awaited_for_ever(
    scheme: str, begin: bytes, drop: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TOTAL_S", 0.5)
    with dripping(begin, drop) as port, pytest.raises(DeliveryError, match=r"127.0.0.1: no answer within 0.5 s"):
        deliver(event(f"{scheme}://127.0.0.1:{port}/"))


@pytest.mark.parametrize("begin", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
def test_the_body_of_an_answer_is_not_awaited(begin: bytes) -> None:
    """It may have no end."""
    with dripping(begin, b"") as port:
        deliver(event(f"http://127.0.0.1:{port}/"))


def test_an_answer_that_is_not_http_is_named_in_text_that_can_be_recorded() -> None:
    with dripping(b"\0\x1b[31m\xff\n", b"x") as port, pytest.raises(DeliveryError, match="BadStatusLine") as error:
        deliver(event(f"http://127.0.0.1:{port}/"))
    assert str(error.value).isprintable()


def test_the_next_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most ADDRESSES of them: a name may have thousands, all of somebody else."""
    ask = socket.getaddrinfo

    def answer(host: str, port: int, *args: Any, **options: Any) -> Any:
        if host != "many.test":
            return ask(host, port, *args, **options)
        return [found for address in addresses for found in ask(address, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with receiver() as heard:
        url = heard.url.replace("127.0.0.1", "many.test")
        addresses = ["127.9.9.9", "127.0.0.1", "127.0.0.1"]
        deliver(event(url))
        addresses = ["127.9.9.9"] * delivery.ADDRESSES + ["127.0.0.1"]
        with pytest.raises(DeliveryError, match=r"many.test: ConnectionRefusedError"):
            deliver(event(url))
    assert len(heard.arrived) == 1


def test_a_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    files = [tmp_path / "key.pem", tmp_path / "certificate.pem"]
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other.test"
    subprocess.run([*make.split(), "-keyout", files[0], "-out", files[1]], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    with receiver(context) as heard, pytest.raises(DeliveryError, match=r"127.0.0.1: SSLCertVerificationError"):
        deliver(event(heard.url), ssl.create_default_context(cafile=str(files[1])))
    assert heard.arrived == []


@pytest.mark.parametrize(
    "host", ["a" * 64 + ".org", "a..b", "\udcff.org", "a b"], ids=["long label", "no label", "surrogate", "space"]
)
def test_a_host_that_is_no_name_is_refused(host: str) -> None:
    with pytest.raises(DeliveryError, match=r"url: .* cannot be resolved|url: .* is not allowed"):
        deliver(event(f"http://{host}:1/"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "ftp://host/",
        "http://",
        "http:///path",
        "http://user:word@host/",
        "http://host:99999/",
        "file:///etc",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(DeliveryError, match=r"url: .* is not allowed; permitted: http:// or https://, a host"):
        check_url(url)
