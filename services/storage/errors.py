"""What S3 refuses, in words."""

from botocore.exceptions import ClientError

from training.errors import DarkroomError


class ObjectStoreError(DarkroomError):
    """S3 refuses a request. The message names the bucket and what to check."""


class ObjectReplaced(ObjectStoreError):
    """The version of an object that was to be read was replaced or removed."""


def refusal(uri: str, error: ClientError) -> ObjectStoreError:
    """Return what to say of an object that the store does not return, and will not without a change."""
    return ObjectStoreError(
        f"the store refuses to return {uri} ({error.response['Error']['Code']}); let the service read it"
    )
