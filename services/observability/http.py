"""What a process tells about itself over HTTP: /metrics, /healthz, /readyz, /startupz."""

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from services.settings import DatabaseSettings

Start = Callable[[str, list[tuple[str, str]]], Any]


class Answers(Protocol):
    """Reasons against being alive, ready, started; none is a yes."""

    def live(self) -> list[str]:
        """Against being alive."""

    def ready(self) -> list[str]:
        """Against being ready."""

    def started(self) -> list[str]:
        """Against having started."""


class Silent(WSGIRequestHandler):
    """Asked every few seconds, it would fill the log."""

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def serve(settings: DatabaseSettings, health: Answers, registry: CollectorRegistry = REGISTRY) -> None:
    """Serve on DARKROOM_METRICS_HOST and DARKROOM_METRICS_PORT, unless the port is 0."""
    if not settings.metrics_port:
        return
    metrics = make_wsgi_app(registry)
    answers = {"/healthz": health.live, "/readyz": health.ready, "/startupz": health.started}

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start)  # type: ignore[no-any-return]
        if path not in answers:
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [f"there are: /metrics, {', '.join(answers)}\n".encode()]
        reasons = answers[path]()
        start("503 Service Unavailable" if reasons else "200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"ok": not reasons, "reasons": reasons}).encode()]

    server = make_server(settings.metrics_host, settings.metrics_port, app, ThreadingWSGIServer, Silent)
    threading.Thread(target=server.serve_forever, name="monitoring", daemon=True).start()
