"""`darkroom worker`, `dispatcher` and `exporter`: the processes of the service, in the foreground."""

import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.session import create_engine
from services.errors import CommandError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from services.settings import Settings
    from services.storage.object_store import ObjectStore


def worker(
    queue: Annotated[list[str] | None, typer.Option(help="A queue to serve; may be repeated.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=2, max=1024, help="Rows of the network's batch in a denoising step.")
    ] = None,
) -> None:
    """Run a worker until SIGTERM.

    It then finishes the images in progress, or returns their shards to the queue.
    """
    from services.observability import http, metrics
    from services.process import celery_app
    from services.registry.release_cache import ReleaseCache
    from services.settings import load

    changes = {name: value for name, value in {"queues": queue, "rows": rows}.items() if value}
    settings = load("worker").model_copy(update=changes)
    engine, store, app = _connect(settings)
    ReleaseCache(store, settings.cache_dir, settings.cache_gb, settings.cache_seed).check()
    from services.worker.device import check_device
    from services.worker.worker import Worker  # loads torch, which takes seconds: what is missing is reported before

    check_device(settings.device)
    worker = Worker(settings, engine, store)
    http.serve(settings, worker.health, metrics.WORKER)
    celery_app.serve(app, worker)


def dispatcher() -> None:
    """Run a dispatcher until SIGTERM.

    It plans jobs, sends hints, finalizes jobs and recovers the work of lost workers.
    """
    from services.dispatcher.dispatcher import Dispatcher
    from services.observability import http, metrics
    from services.settings import load

    settings = load("dispatcher")
    engine, store, app = _connect(settings)
    service = Dispatcher(settings, engine, store, app)
    http.serve(settings, service.health, metrics.DISPATCHER)
    _on_stop(service.stop)
    service.run()


def exporter() -> None:
    """Serve metrics of the queue to Prometheus until SIGTERM.

    Run one for a database: two would report the same queue twice.
    """
    from services.exporter import ExporterHealth, QueueCollector, make_registry
    from services.observability import http, logs
    from services.settings import load_database

    settings = load_database("observer")
    if not settings.metrics_port:
        raise CommandError("DARKROOM_METRICS_PORT: 0 is not allowed here; permitted: the port to serve on, say 9464")
    logs.configure(settings)
    collector = QueueCollector(create_engine(settings), settings.stale_s)
    stopping = threading.Event()
    _on_stop(stopping.set)
    http.serve(settings, ExporterHealth(collector), make_registry(collector))
    stopping.wait()


def _on_stop(stop: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


def _connect(settings: "Settings") -> "tuple[Engine, ObjectStore, Any]":
    """Connect to the database, the bucket and the broker, so that a process that cannot work fails at its start.

    It can work while the broker does not answer.
    """
    from services.database import connections, schema
    from services.observability import logs
    from services.process import celery_app
    from services.process.starting import wait_for_connection
    from services.storage.object_store import ObjectStore

    logs.configure(settings)
    engine = connections.prepare_statements(create_engine(settings))
    wait_for_connection(engine)
    schema.check_schema(engine)
    store = ObjectStore.connect(settings)
    store.check()
    app = celery_app.make_app(settings)
    celery_app.look_for_broker(app)
    return engine, store, app
