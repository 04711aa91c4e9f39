"""The address of /metrics and the health checks."""

import socket

import pytest
from prometheus_client import CollectorRegistry

from services.observability.http import serve
from services.settings import DatabaseSettings, SettingsError


class Healthy:
    """Passes every check."""

    def live(self) -> list[str]:
        return []

    ready = started = live


def test_a_port_that_is_taken_is_a_wrong_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = DatabaseSettings.model_construct(metrics_host="127.0.0.1", metrics_port=port)
        with pytest.raises(
            SettingsError, match=rf"^DARKROOM_METRICS_HOST, DARKROOM_METRICS_PORT: 127\.0\.0\.1:{port} .*in use"
        ):
            serve(settings, Healthy(), CollectorRegistry())


def test_an_address_of_another_machine_is_a_wrong_setting() -> None:
    settings = DatabaseSettings.model_construct(metrics_host="192.0.2.1", metrics_port=9)
    with pytest.raises(SettingsError, match="DARKROOM_METRICS_HOST"):
        serve(settings, Healthy(), CollectorRegistry())
