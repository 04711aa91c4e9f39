"""`darkroom console`: the address that it serves on."""

import socket

import pytest

from services.cli.console import _listen
from services.console_settings import ConsoleSettings
from services.errors import CommandError


def settings(**changes: object) -> ConsoleSettings:
    needed = {"database_url": "postgresql://a:b@h/d", "s3_bucket": "pictures"}
    return ConsoleSettings.model_validate({**needed, **changes})


def test_port_0_is_a_free_one_on_loopback() -> None:
    with _listen(settings(console_port=0)) as listener:
        host, port = listener.getsockname()
        assert (host, port > 0) == ("127.0.0.1", True)


def test_a_port_in_use_is_named_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            CommandError, match=rf"127.0.0.1:{port} cannot be used \(Address already in use\); permitted"
        ):
            _listen(settings(console_port=port))
