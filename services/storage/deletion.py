"""Deleting many objects, on stores that delete in batches and on those that do not, and aborting uploads."""

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import Any

from botocore.exceptions import ClientError

BATCH = 1_000  # the most keys of one request
# A store that has no DeleteObjects, or wants it otherwise than it was sent, answers with one of these.
UNSUPPORTED = (400, 404, 405, 411, 501)


def delete_objects(client: Any, bucket: str, keys: Iterable[str]) -> tuple[str, str] | None:
    """Delete objects; missing ones are no error. Returns the first key that cannot be deleted and why, or None.

    Deletes one by one if the store refuses batches.
    """
    rest = iter(keys)
    delete = _delete_batch
    while group := list(islice(rest, BATCH)):
        try:
            refusal = delete(client, bucket, group)
        except ClientError as error:
            if delete is _delete_each or error.response["ResponseMetadata"]["HTTPStatusCode"] not in UNSUPPORTED:
                raise
            delete = _delete_each
            refusal = delete(client, bucket, group)
        if refusal:
            return refusal
    return None


def _delete_batch(client: Any, bucket: str, keys: list[str]) -> tuple[str, str] | None:
    try:
        answer = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
    except ClientError as error:
        return _refusal(keys[0], error)
    for refused in answer.get("Errors", ()):
        if refused.get("Code") != "NoSuchKey":
            return refused["Key"], refused.get("Message", "")
    return None


def _delete_each(client: Any, bucket: str, keys: list[str]) -> tuple[str, str] | None:
    for key in keys:
        try:
            client.delete_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"].get("Code") != "NoSuchKey":
                return _refusal(key, error)
    return None


def _refusal(key: str, error: ClientError) -> tuple[str, str]:
    """Return the key and why these credentials may not delete it. Raises any other error."""
    if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
        raise error
    return key, str(error.response["Error"].get("Message") or "permission denied")


def abort_uploads(client: Any, bucket: str, prefix: str, before: datetime) -> int:
    """Abort multipart uploads under a prefix that began before `before`. Returns how many."""
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    old = [upload for page in pages for upload in page.get("Uploads", ()) if upload["Initiated"] < before]
    for upload in old:
        try:
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        except ClientError as error:
            if error.response["Error"].get("Code") != "NoSuchUpload":  # it was completed or aborted meanwhile
                raise
    return len(old)
