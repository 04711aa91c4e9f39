"""Small objects and folders by requests that are made here: boto3 takes several times as long for the same ones.

Such a request is tried once. Whatever it is answered, unless it is done, is left to boto3: it repeats the request, as
often as the client is configured to, and tells what is wrong.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

from botocore.exceptions import BotoCoreError
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError

from services.storage.signature import EMPTY_SHA256, sign

HEADERS = {
    "ContentMD5": "content-md5",
    "ContentType": "content-type",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
}
MAX_BYTES = 2**20  # of a larger object, the time of a request is in its bytes
PORTS = {"http": 80, "https": 443}

Listing = tuple[dict[str, tuple[int, str]], bool]  # size and ETag by key; whether there are more


class Answer(NamedTuple):
    """An answer of the store."""

    status: int
    headers: HTTPMessage
    body: bytes


class SignedRequests:
    """Requests about one bucket with the credentials, the connections and the time-outs of a client of boto3."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client, self.bucket = client, bucket

    def put(self, key: str, body: bytes, **arguments: Any) -> None:
        """Write an object. arguments: some of those of boto3's `put_object`, which says what this raises."""
        if len(body) > MAX_BYTES or not self._put(key, body, **arguments):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **arguments)

    def list_folder(self, prefix: str, start_after: str, most: int) -> Listing:
        """Return up to `most` objects under a prefix whose keys follow `start_after`, and whether there are more.

        Raises what boto3's `list_objects_v2` raises.
        """
        query = (
            f"encoding-type=url&list-type=2&max-keys={most}&prefix={quote(prefix, safe='~')}"
            f"&start-after={quote(start_after, safe='~')}"
        )
        answer = self._send("GET", self._path.rstrip("/") or "/", query, {})
        if answer is not None:
            return parse_listing(answer.body)
        page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, StartAfter=start_after, MaxKeys=most)
        found = {each["Key"]: (int(each["Size"]), str(each["ETag"])) for each in page.get("Contents", ())}
        return found, bool(page.get("IsTruncated"))

    def head(self, key: str) -> dict[str, Any] | None:
        """Return the ContentLength and the ETag of boto3's `head_object`, or None, after which boto3 may tell more."""
        answer = self._send("HEAD", self._path + quote(key, safe="/~"), "", {})
        if answer is None or "Content-Length" not in answer.headers or "ETag" not in answer.headers:
            return None
        return {"ContentLength": int(answer.headers["Content-Length"]), "ETag": answer.headers["ETag"]}

    def _put(self, key: str, body: bytes, **arguments: Any) -> bool:
        """Return whether the object is written."""
        headers = {f"x-amz-meta-{name}": value for name, value in arguments.pop("Metadata", {}).items()}
        headers |= {HEADERS[name]: value for name, value in arguments.items()}
        return self._send("PUT", self._path + quote(key, safe="/~"), "", headers, body) is not None

    @cached_property
    def _address(self) -> str:
        """The address of the bucket. It depends on the endpoint, the region and the settings, and a link shows it."""
        link = self.client.generate_presigned_url("put_object", Params={"Bucket": self.bucket, "Key": "k"})
        return str(link).partition("?")[0].removesuffix("k")

    @cached_property
    def _path(self) -> str:
        return urlsplit(self._address).path

    @cached_property
    def _host(self) -> str:
        parts = urlsplit(self._address)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else str(parts.hostname)
        return host if parts.port in (None, PORTS[parts.scheme]) else f"{host}:{parts.port}"

    @cached_property
    def _connections(self) -> HTTPConnectionPool | None:
        """The client's connections to the bucket; None if they go through a proxy."""
        session = self.client._endpoint.http_session
        if session._proxy_config.proxy_url_for(self._address):
            return None
        pool: HTTPConnectionPool = session._get_connection_manager(self._address).connection_from_url(self._address)
        session._setup_ssl_cert(pool, self._address, session._verify)
        return pool

    def _send(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes | None = None
    ) -> Answer | None:
        """Return the answer 200, or None for any other end."""
        try:
            signer = self.client._request_signer
            credentials = signer._credentials.get_frozen_credentials() if signer._credentials else None
            if credentials is None or self._connections is None:
                return None
            sha256 = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
            headers = sign(
                method, path, query, {**headers, "host": self._host}, credentials, signer.region_name, sha256=sha256
            )
            if not all(value.isascii() and value.isprintable() for value in headers.values()):
                return None
            target = f"{path}?{query}" if query else path
            answer = exchange(self._connections, method, target, headers, body)
        except (BotoCoreError, HTTPError, HTTPException, OSError):
            return None
        return answer if answer.status == 200 else None


def exchange(
    connections: HTTPConnectionPool, method: str, target: str, headers: Mapping[str, str], body: bytes | None
) -> Answer:
    """Send a request in one piece on one of the connections, and read the answer.

    urllib3's own `urlopen` takes three times the processor time. headers: printable ASCII.
    """
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    if body is not None:
        lines.append(f"content-length: {len(body)}\r\n")
    head = f"{method} {target} HTTP/1.1\r\naccept-encoding: identity\r\n{''.join(lines)}\r\n"
    connection: Any = connections._get_conn()
    try:
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(connections.timeout.read_timeout)
        connection.sock.sendall(head.encode() + (body or b""))
        with HTTPResponse(connection.sock, method=method) as response:
            response.begin()
            answer = Answer(response.status, response.headers, response.read())
        if response.will_close:
            connection.close()
    except BaseException:
        connection.close()
        raise
    finally:
        connections._put_conn(connection)
    return answer


def parse_listing(body: bytes) -> Listing:
    """Return the objects of an answer to ListObjectsV2, and whether there are more."""
    root = ElementTree.fromstring(body)
    entries = [{part.tag.rpartition("}")[2]: part.text or "" for part in each} for each in root if len(each)]
    other = {each.tag.rpartition("}")[2]: each.text for each in root}
    decode = unquote if other.get("EncodingType") == "url" else str
    found = {decode(each["Key"]): (int(each["Size"]), each["ETag"]) for each in entries if "Key" in each}
    return found, other.get("IsTruncated") == "true"
