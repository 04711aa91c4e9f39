"""`darkroom worker | dispatcher`: the long-running processes, in the foreground or, for the demo, behind it."""

import signal
import threading
from typing import Annotated, Any

import typer

from services.errors import CommandError
from services.process.celery_app import check_broker
from services.settings import Settings, load, load_database


def worker(
    queue: Annotated[list[str] | None, typer.Option(help="A queue to serve; may be repeated.")] = None,
    rows: Annotated[int | None, typer.Option(min=2, max=1024, help="Network rows of every denoising step.")] = None,
) -> None:
    """Develop images until SIGTERM; then finish or give back what is under way."""
    from services.observability import http
    from services.process import celery_app
    from services.worker.worker import Worker

    changes = {name: value for name, value in {"queues": queue, "rows": rows}.items() if value}
    settings = load("worker").model_copy(update=changes)
    engine, store, app = _connect(settings)
    worker = Worker(settings, engine, store)
    http.serve(settings, worker.health)
    celery_app.serve(app, worker)


def dispatcher() -> None:
    """Plan jobs, send hints, take back what lost workers held, until SIGTERM."""
    from services.dispatcher.dispatcher import Dispatcher
    from services.observability import http

    settings = load("dispatcher")
    engine, store, app = _connect(settings)
    service = Dispatcher(settings, engine, store, app)
    http.serve(settings, service.health)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()


def exporter() -> None:
    """Serve the queue's gauges to Prometheus until SIGTERM. One is enough; two would count the same queue twice."""
    from services.database import connections
    from services.exporter import ExporterHealth, QueueCollector, make_registry
    from services.observability import http, logs

    settings = load_database("observer")
    if not settings.metrics_port:
        raise CommandError("DARKROOM_METRICS_PORT: 0 is not allowed here; permitted: the port to serve on, say 9464")
    logs.configure(settings)
    collector = QueueCollector(connections.connect(settings.database_url.get_secret_value()), settings.stale_s)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    http.serve(settings, ExporterHealth(collector), make_registry(collector))
    stopping.wait()


def _connect(settings: Settings) -> tuple[Any, Any, Any]:
    """Database, bucket and broker, each of which has answered: a process that cannot work says so at its start."""
    from services.database import connections, schema
    from services.observability import logs
    from services.process import celery_app
    from services.storage.object_store import ObjectStore

    logs.configure(settings)
    engine = connections.connect(settings.database_url.get_secret_value())
    schema.check_schema(engine)
    store = ObjectStore.connect(settings)
    store.check()
    app = celery_app.make_app(settings)
    check_broker(app)
    return engine, store, app


# -- behind the demo ---------------------------------------------------------------------------
