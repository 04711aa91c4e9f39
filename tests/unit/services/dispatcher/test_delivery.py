"""An event is signed, goes to the address that was checked, and to no private one."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
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
        "[2002:7f00:1::]",
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


def test_an_answer_byte_by_byte_is_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TOTAL_S", 0.5)
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            peer, _ = server.accept()
            with peer, suppress(OSError):
                while not is_over.wait(0.05):
                    peer.send(b"H")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(DeliveryError, match=r"127.0.0.1: "):
                deliver(event(f"http://127.0.0.1:{server.getsockname()[1]}/"))
        finally:
            is_over.set()
            thread.join()


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
