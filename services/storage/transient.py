"""Transient errors: they pass with time, so the operation is retried without limit and no work is to blame."""

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from urllib3.exceptions import HTTPError

from services.database.faults import is_outage


def is_transient(error: BaseException) -> bool:
    """Return whether an error says that Postgres or S3 is unreachable or overloaded."""
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 500)
        return bool(status >= 500 or status in (408, 409, 425, 429))
    if isinstance(error, ParamValidationError):
        return False
    return is_outage(error) or isinstance(error, BotoCoreError | HTTPError | OperationalError | InterfaceError)
