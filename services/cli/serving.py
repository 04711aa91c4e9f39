"""`darkroom worker | dispatcher`: the long-running processes, in the foreground or, for the demo, behind it."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from services.cli.stack import CommandError
from services.settings import ROOT_VARIABLE, Settings, load, load_database


def worker(
    queue: Annotated[list[str] | None, typer.Option(help="A queue to serve; may be repeated.")] = None,
    rows: Annotated[int | None, typer.Option(min=2, max=1024, help="Network rows of every denoising step.")] = None,
) -> None:
    """Develop images until SIGTERM; then finish or give back what is under way."""
    from services import monitoring, tasks
    from services.worker import Worker

    changes = {name: value for name, value in {"queues": queue, "rows": rows}.items() if value}
    settings = load("worker").model_copy(update=changes)
    engine, store, app = _connect(settings)
    worker = Worker(settings, engine, store)
    monitoring.serve(settings, worker.health)
    tasks.serve(app, worker)


def dispatcher() -> None:
    """Plan jobs, send hints, take back what lost workers held, until SIGTERM."""
    from services import monitoring
    from services.dispatcher import Dispatcher

    settings = load("dispatcher")
    engine, store, app = _connect(settings)
    service = Dispatcher(settings, engine, store, app)
    monitoring.serve(settings, service.health)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()


def exporter() -> None:
    """Serve the queue's gauges to Prometheus until SIGTERM. One is enough; two would count the same queue twice."""
    from services import database, logs, monitoring
    from services.exporter import ExporterHealth, QueueCollector, registry

    settings = load_database("observer")
    if not settings.metrics_port:
        raise CommandError("DARKROOM_METRICS_PORT: 0 is not allowed here; permitted: the port to serve on, say 9464")
    logs.configure(settings)
    collector = QueueCollector(database.connect(settings.database_url.get_secret_value()), settings.stale_s)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    monitoring.serve(settings, ExporterHealth(collector), registry(collector))
    stopping.wait()


def _connect(settings: Settings) -> tuple[Any, Any, Any]:
    """Database, bucket and broker, each of which has answered: a process that cannot work says so at its start."""
    from services import database, logs, schema, tasks
    from services.object_store import ObjectStore

    logs.configure(settings)
    engine = database.connect(settings.database_url.get_secret_value())
    schema.check(engine)
    store = ObjectStore.connect(settings)
    store.check()
    app = tasks.make_app(settings)
    check_broker(app)
    return engine, store, app


def check_broker(app: Any) -> None:
    """Fail at the start rather than retry in silence; once running, a broker may come and go."""
    from kombu.exceptions import OperationalError

    try:
        with app.connection_for_write(connect_timeout=3) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=3)
    except (OperationalError, OSError) as error:
        address = app.connection_for_write().as_uri()
        lines = str(error).strip().splitlines()
        raise CommandError(
            f"The broker at {address} does not answer ({lines[0] if lines else error}). "
            "Start the local stack with `darkroom up`, or check DARKROOM_BROKER_URL."
        ) from None


# -- behind the demo ---------------------------------------------------------------------------


def start_background(root: Path, name: str) -> int:
    """Start `darkroom NAME` as a process that outlives this one, unless it runs already. Returns its pid."""
    running = _find(root, name)
    if running is not None:
        return int(running.pid)
    log = _log(root, name)
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", name],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, ROOT_VARIABLE: str(root)},
        )
    _note(root, name).write_text(json.dumps({"pid": process.pid, "created": psutil.Process(process.pid).create_time()}))
    process.returncode = 0  # it is meant to outlive this object
    return process.pid


def stop_background(root: Path) -> list[str]:
    """Stop what `start_background` started, workers first so that they can settle. Returns the names."""
    stopped = []
    for name in ("worker", "dispatcher"):
        process = _find(root, name)
        if process is not None:
            process.terminate()
            try:
                process.wait(60)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(10)
            stopped.append(name)
        _note(root, name).unlink(missing_ok=True)
    return stopped


def background_status(root: Path) -> list[tuple[str, int | None, Path]]:
    """Name, pid if it runs, and log of each process that was started."""
    rows: list[tuple[str, int | None, Path]] = []
    for name in ("dispatcher", "worker"):
        if _note(root, name).exists():
            process = _find(root, name)
            rows.append((name, process.pid if process else None, _log(root, name)))
    return rows


def _find(root: Path, name: str) -> psutil.Process | None:
    try:
        note = json.loads(_note(root, name).read_text())
        process = psutil.Process(note["pid"])
        # A pid is used again after its process; the moment of creation tells them apart.
        same = abs(process.create_time() - note["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
        return process if same else None
    except (FileNotFoundError, psutil.NoSuchProcess, ValueError, KeyError):
        return None


def _note(root: Path, name: str) -> Path:
    return root / "run" / f"{name}.json"


def _log(root: Path, name: str) -> Path:
    return root / "logs" / f"{name}.log"
