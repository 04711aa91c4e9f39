"""Requests that are signed here use connections, and fail, as those of boto3 do."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import boto3
import pytest
from botocore.exceptions import HTTPClientError, NoCredentialsError

from services.s3_client import make_client
from services.storage.signed_requests import SignedRequests, parse_listing


def test_without_credentials_boto3_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.Session().client("s3", region_name="us-east-1", endpoint_url="http://127.0.0.1:1")
    with pytest.raises(NoCredentialsError):
        SignedRequests(client, "darkroom").put("key", b"body")


NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@pytest.mark.parametrize("attribute", ["", NAMESPACE], ids=["none", "namespace"])
def test_a_listing_is_read(attribute: str) -> None:
    """Keys are encoded only if the store says so."""
    found = "<Contents><Key>a%2Fb%20c+d.png</Key><Size>12</Size><ETag>&quot;ab&quot;</ETag></Contents>"
    for encoding, key in (("", "a%2Fb%20c+d.png"), ("<EncodingType>url</EncodingType>", "a/b c+d.png")):
        body = f"<ListBucketResult{attribute}><IsTruncated>true</IsTruncated>{encoding}{found}</ListBucketResult>"
        assert parse_listing(body.encode()) == ({key: (12, '"ab"')}, True)
    assert parse_listing(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>") == ({}, False)


class Store(BaseHTTPRequestHandler):
    """Accepts every request. "last" in a path: its connection ends then, whether the answer says so or not."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[int, str, bytes]]] = []  # the client's port, the path and the body

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.asked.append((self.client_address[1], self.path, body))
        self.send_response(200)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", "0")
        if "says" in self.path:
            self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = "last" in self.path

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture
def requests() -> Iterator[SignedRequests]:
    """Requests to a `Store`."""
    Store.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        client = make_client(endpoint_url=address, region="us-east-1", access_key_id="a", secret_access_key="b")
        yield SignedRequests(client, "bucket")
        client.close()
        server.shutdown()


@pytest.mark.parametrize("last", ["last", "last-says-so"])
def test_requests_share_a_connection_until_the_store_ends_it(requests: SignedRequests, last: str) -> None:
    for key in ("a", "b", last, "c", "d"):
        requests.put(key, key.encode())
    ports = [port for port, _, _ in Store.asked]
    assert [(path, body) for _, path, body in Store.asked] == [
        (f"/bucket/{key}", key.encode()) for key in ("a", "b", last, "c", "d")
    ]
    assert ports[0] == ports[1] == ports[2] != ports[3] == ports[4]


def test_a_value_that_is_no_header_ends_no_request_early(requests: SignedRequests) -> None:
    """boto3 refuses it."""
    with pytest.raises(HTTPClientError, match="Invalid header value"):
        requests.put("a", b"body", ContentType="image/png\r\nx-amz-acl: public-read")
    assert Store.asked == []
