"""The HTTP endpoints of a process: /metrics, /healthz, /readyz, /startupz."""

import json
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from services.observability.listening import find_family
from services.settings import DatabaseSettings, SettingsError

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class HealthChecks(Protocol):
    """Each check returns the reasons against it: an empty list means yes."""

    def live(self) -> list[str]:
        """Return why the process must be restarted."""

    def ready(self) -> list[str]:
        """Return why the process takes no work."""

    def started(self) -> list[str]:
        """Return why the process has not started."""


class QuietRequestHandler(WSGIRequestHandler):
    """Logs no requests: probes and scrapes arrive every few seconds."""

    def log_message(self, *arguments: Any) -> None:
        """Log nothing."""


class Server(ThreadingWSGIServer):
    """Serves on an address of IPv4 or IPv6, or on all of both: "::"."""

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        """Bind the address. Raises OSError if it cannot be used."""
        host, self.address_family = find_family(address[0])
        super().__init__((host, address[1]), handler)

    def server_bind(self) -> None:
        """Bind, also for IPv4 if the address is "::", whatever the machine's default is."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, self.server_address[0] != "::")
        super().server_bind()


def serve(settings: DatabaseSettings, health: HealthChecks, registry: CollectorRegistry) -> None:
    """Serve the registry's metrics and the health checks in a thread.

    The address is DARKROOM_METRICS_HOST and DARKROOM_METRICS_PORT. Nothing is served if the port is 0.
    Raises SettingsError if the address cannot be used.
    """
    if not settings.metrics_port:
        return
    metrics = make_wsgi_app(registry)
    checks = {"/healthz": health.live, "/readyz": health.ready, "/startupz": health.started}

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)  # type: ignore[no-any-return]  # untyped in prometheus_client
        if path not in checks:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [f"paths: /metrics, {', '.join(checks)}\n".encode()]
        reasons = checks[path]()
        status = "503 Service Unavailable" if reasons else "200 OK"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps({"ok": not reasons, "reasons": reasons}).encode()]

    host, port = settings.metrics_host, settings.metrics_port
    try:
        server = make_server(host, port, app, Server, QuietRequestHandler)
    except OSError as error:
        raise SettingsError(
            f"DARKROOM_METRICS_HOST, DARKROOM_METRICS_PORT: {host}:{port} cannot be used ({error.strerror}); "
            "permitted: an address of this machine and a free port, or port 0 to serve nothing"
        ) from None
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
