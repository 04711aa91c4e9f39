"""The address of /metrics and the health checks."""

import socket
from urllib.error import URLError
from urllib.request import urlopen

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


has_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("[::1]", marks=has_ipv6)])
def test_one_host_is_all_addresses_of_both_versions(address: str) -> None:
    """As in a pod, whose only address may be of IPv6."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve(DatabaseSettings.model_construct(metrics_host="::", metrics_port=port), Healthy(), CollectorRegistry())
    with urlopen(f"http://{address}:{port}/healthz") as answer:
        assert answer.status == 200


@has_ipv6
def test_a_host_of_one_address_serves_on_no_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve(DatabaseSettings.model_construct(metrics_host="::1", metrics_port=port), Healthy(), CollectorRegistry())
    with urlopen(f"http://[::1]:{port}/healthz") as answer:
        assert answer.status == 200
    with pytest.raises(URLError):
        urlopen(f"http://127.0.0.1:{port}/healthz")
