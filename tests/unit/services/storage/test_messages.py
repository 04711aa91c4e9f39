"""What a person reads of an error of S3."""

from botocore.exceptions import ClientError

from services.storage.messages import describe_store_error


def error(code: str, status: int) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "it", "Key": "a/b.png"}, "ResponseMetadata": {"HTTPStatusCode": status}},
        "GetObject",
    )


def test_an_object_that_is_gone_is_no_wrong_bucket() -> None:
    assert (
        describe_store_error(error("NoSuchKey", 404))
        == "S3 has no object a/b.png: it was removed, or was never stored."
    )
    assert str(describe_store_error(error("NoSuchBucket", 404))).endswith("Check DARKROOM_S3_BUCKET.")
