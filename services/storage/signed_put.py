"""Writes small objects by requests that are signed here, for which boto3 takes twice the processor time.

Such a request is tried once. Whatever it is answered, unless the object is written, is left to boto3: it repeats the
request, as often as the client is configured to, and tells what is wrong.
"""

from functools import cached_property
from typing import Any
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError

HEADERS = {
    "ContentMD5": "Content-MD5",
    "ContentType": "Content-Type",
    "IfMatch": "If-Match",
    "IfNoneMatch": "If-None-Match",
}
MAX_BYTES = 2**20  # of a larger object, the time of a request is in its bytes


class SignedPuts:
    """Writes objects of one bucket with the credentials, the connections and the time-outs of a client of boto3."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client, self.bucket = client, bucket

    def put(self, key: str, body: bytes, **arguments: Any) -> None:
        """Write an object. arguments: some of those of boto3's `put_object`, which says what this raises."""
        if len(body) > MAX_BYTES or not self._send(key, body, **arguments):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **arguments)

    @cached_property
    def _address(self) -> str:
        """The address of the bucket. It depends on the endpoint, the region and the settings, and a link shows it."""
        link = self.client.generate_presigned_url("put_object", Params={"Bucket": self.bucket, "Key": "k"})
        return str(link).partition("?")[0].removesuffix("k")

    def _send(self, key: str, body: bytes, **arguments: Any) -> bool:
        """Return whether the object is written."""
        metadata = arguments.pop("Metadata", {})
        headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
        headers |= {HEADERS[name]: value for name, value in arguments.items()}
        request = AWSRequest("PUT", self._address + quote(key, safe="/~"), headers, body)
        signer = self.client._request_signer
        S3SigV4Auth(signer._credentials.get_frozen_credentials(), "s3", signer.region_name).add_auth(request)
        try:
            answer = self.client._endpoint.http_session.send(request.prepare())
        except BotoCoreError:
            return False
        return bool(answer.status_code == 200)
