"""Which errors are transient."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, OperationalError

from services.storage.transient import is_transient


def client_error(status: int) -> ClientError:
    return ClientError({"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_overloaded_server_is_transient(status: int) -> None:
    assert is_transient(client_error(status))


@pytest.mark.parametrize("status", [400, 403, 404, 412])
def test_a_refusal_is_permanent(status: int) -> None:
    assert not is_transient(client_error(status))


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://x"),
        OperationalError("", None, OSError()),
        InterfaceError("", None, OSError()),
    ],
)
def test_an_unreachable_server_is_transient(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", [DataError("", None, OSError()), IntegrityError("", None, OSError()), ValueError()])
def test_a_mistake_is_permanent(error: Exception) -> None:
    assert not is_transient(error)
