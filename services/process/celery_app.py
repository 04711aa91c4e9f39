"""The Celery app: messages are hints, Postgres is the truth.

A hint says "this queue has work". It is acknowledged at once; a duplicate finds nothing to claim, and a lost
one is sent again. So the broker may be wiped at any moment.
"""

import logging
import warnings
from typing import Any

from celery import Celery, bootsteps, signals
from celery.apps import worker as celery_worker
from celery.platforms import SecurityWarning
from kombu.entity import Exchange, Queue

from services.errors import CommandError
from services.settings import Settings

WAKE = "darkroom.wake"
HINT_EXPIRES_S = 60


def make_app(settings: Settings) -> Celery:
    """An app that can send hints. Opens nothing yet."""
    assert settings.broker_url is not None
    app = Celery("darkroom", broker=settings.broker_url.get_secret_value(), set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=False,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A half-open connection after a broker restart would otherwise be waited on for ever.
        broker_transport_options={
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        task_queues=[Queue(wire_name(name), Exchange("darkroom"), wire_name(name)) for name in settings.queues],
        task_create_missing_queues=True,
        task_default_queue=wire_name(settings.queues[0]),
    )
    return app


def wire_name(queue: str) -> str:
    """The name of a queue at the broker."""
    return f"darkroom.{queue}"


def send_hint(app: Celery, queue: str) -> None:
    """Tell one worker of a queue that there is work. Raises kombu's OperationalError when the broker is away."""
    app.send_task(WAKE, queue=wire_name(queue), retry=False, expires=HINT_EXPIRES_S, ignore_result=True)


def serve(app: Celery, worker: Any, *, concurrency: int = 1) -> None:
    """Run a Celery worker around `worker` until SIGTERM.

    The worker's threads belong to a bootstep of this process: a prefork child would never hear SIGTERM, and
    CUDA does not survive a fork. The task only wakes them. Raises what `worker.start` raises; Celery would log its
    traceback instead.
    """
    failures: list[Exception] = []

    @app.task(name=WAKE)  # type: ignore[untyped-decorator]
    def wake() -> None:
        worker.wake()

    class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]
        """Starts the engine with the Celery worker, and drains it when that stops."""

        requires = ("celery.worker.components:Pool",)

        def start(self, parent: Any) -> None:
            try:
                worker.start()
            except Exception as error:
                failures.append(error)
                raise SystemExit(1) from error

        def stop(self, parent: Any) -> None:
            worker.stop()

        # Also on the second signal: leases are given back rather than left to be missed.
        terminate = stop

    app.steps["worker"].add(EngineStep)
    signals.setup_logging.connect(_leave_logging, weak=False)
    # Celery tells of a shutdown past all logging; the worker tells it itself.
    celery_worker.safe_say = lambda *_: None
    for name in ("celery", "kombu"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Celery fears root because of pickle, which this app does not accept.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    options = ["worker", "--pool=threads", f"--concurrency={concurrency}", "--without-gossip", "--without-mingle"]
    app.worker_main(["--quiet", *options, "--loglevel=INFO"])
    if failures:
        raise failures[0]


def _leave_logging(**_: Any) -> None:
    """Whoever answers this signal has configured logging; Celery then changes nothing."""


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
