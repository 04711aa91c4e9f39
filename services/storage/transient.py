"""Which errors pass with time: trying again is right for them however often they happen, and no work is to blame."""

from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy.exc import InterfaceError, OperationalError
from urllib3.exceptions import HTTPError


def is_transient(error: BaseException) -> bool:
    """Whether Postgres or S3 is away, or has too much to do."""
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 500)
        return bool(status >= 500 or status in (408, 409, 425, 429))
    return isinstance(error, BotoCoreError | HTTPError | OperationalError | InterfaceError)
