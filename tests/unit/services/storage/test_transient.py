"""Which errors pass with time."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, OperationalError

from services.storage.transient import is_transient


def answered(status: int) -> ClientError:
    return ClientError({"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_has_too_much_to_do_passes(status: int) -> None:
    assert is_transient(answered(status))


@pytest.mark.parametrize("status", [400, 403, 404, 412])
def test_a_refusal_stays(status: int) -> None:
    assert not is_transient(answered(status))


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://x"),
        OperationalError("", None, OSError()),
        InterfaceError("", None, OSError()),
    ],
)
def test_what_does_not_answer_passes(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", [DataError("", None, OSError()), IntegrityError("", None, OSError()), ValueError()])
def test_a_mistake_stays(error: Exception) -> None:
    assert not is_transient(error)
