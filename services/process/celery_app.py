"""The Celery app. Its messages are hints: Postgres is the truth.

A hint says that a queue has work. The worker acknowledges it at once. A duplicate finds nothing to claim, and a lost
hint is sent again, so the broker may be wiped at any moment, and be away when a process starts.
"""

import logging
import ssl
import warnings
from typing import Any, Protocol

from celery import Celery, bootsteps, signals
from celery.apps import worker as celery_worker
from celery.platforms import SecurityWarning
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError
from redis import exceptions as redis

from services.environment import advise, ignore_variables
from services.errors import CommandError
from services.observability import metrics
from services.settings import Settings
from training.errors import first_line

log = logging.getLogger("darkroom.broker")

WAKE = "darkroom.wake"
HINT_EXPIRES_S = 60


def make_app(settings: Settings) -> Celery:
    """Return an app that can send hints. It opens no connection yet. Variables of Celery have no effect."""
    assert settings.broker_url is not None
    ignore_variables("CELERY_")
    url = settings.broker_url.get_secret_value()
    app = Celery("darkroom", broker=url, set_as_current=False)
    if url.startswith("rediss:") and "ssl_" not in url:  # by default kombu accepts any certificate
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
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
        # Without these the client waits forever on a connection that a broker restart left half-open.
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
    """Return the broker's name for a queue."""
    return f"darkroom.{queue}"


def send_hint(app: Celery, queue: str) -> None:
    """Send one worker of a queue a hint. Raises kombu's OperationalError if the broker does not answer."""
    app.send_task(WAKE, queue=wire_name(queue), retry=False, expires=HINT_EXPIRES_S, ignore_result=True)


class Service(Protocol):
    """What a Celery worker runs: threads that poll for work, and look for it at once after a hint."""

    def start(self) -> None:
        """Start the threads and return."""

    def wake(self) -> None:
        """Look for work now."""

    def stop(self) -> None:
        """Drain, and return when that is done."""


def serve(app: Celery, worker: Service, *, concurrency: int = 1) -> None:
    """Run a Celery worker around `worker` until SIGTERM.

    A bootstep of this process starts and stops the worker's threads: a prefork child would never receive SIGTERM, and
    CUDA does not survive a fork. The Celery task only wakes them. Raises what `worker.start` raises; Celery would log
    its traceback instead.
    """
    failures: list[Exception] = []

    @app.task(name=WAKE)  # type: ignore[untyped-decorator]  # Celery is untyped
    def wake() -> None:
        worker.wake()

    class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
        """Starts `worker` with the Celery worker, and drains it when the Celery worker stops."""

        requires = ("celery.worker.components:Pool",)

        def start(self, parent: Any) -> None:
            try:
                worker.start()
            except Exception as error:
                failures.append(error)
                raise SystemExit(1) from error

        def stop(self, parent: Any) -> None:
            worker.stop()

        # On the second signal as well: released leases are claimed at once, abandoned ones only when they are stale.
        terminate = stop

    class BrokerStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
        """Starts whenever the broker answers, and stops whenever the connection to it is lost."""

        requires = ("celery.worker.consumer.connection:Connection",)

        def start(self, parent: Any) -> None:
            metrics.BROKER_UP.set(1)
            log.info("the broker answers")

        def stop(self, parent: Any) -> None:
            metrics.BROKER_UP.set(0)

    metrics.BROKER_UP.set(0)  # until Celery has a connection: the broker may have gone since it was looked for
    app.steps["worker"].add(EngineStep)
    app.steps["consumer"].add(BrokerStep)
    signals.setup_logging.connect(_leave_logging, weak=False)
    # Celery prints its shutdown without logging; the worker logs it.
    celery_worker.safe_say = lambda *_: None
    for name in ("celery", "kombu"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Celery warns about root because of pickle, which this app does not accept.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # Not by Celery's command line, which reads APP, BROKER_URL and other variables with common names.
    app.Worker(
        pool_cls="threads",
        concurrency=concurrency,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,  # it is sent again and again while the broker is away, which keeps SIGTERM waiting
        quiet=True,
        loglevel=logging.INFO,
    ).start()
    if failures:
        raise failures[0]


def _leave_logging(**_: Any) -> None:
    """Keep Celery from configuring logging: it does so only if nothing is connected to this signal."""


class BrokerAway(CommandError):
    """The broker does not answer, which nobody has to mend in the settings of a process."""


def check_broker(app: Celery) -> None:
    """Raise CommandError if the broker refuses this process, and BrokerAway if it does not answer."""
    try:
        with app.connection_for_write(connect_timeout=3) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=3)
    except (OperationalError, OSError) as error:
        address = app.connection_for_write().as_uri()
        raise (BrokerAway if _is_away(error) else CommandError)(
            f"The broker at {address} does not answer ({first_line(error)}). {advise('DARKROOM_BROKER_URL')}"
        ) from None


def look_for_broker(app: Celery) -> None:
    """Check the broker when a process starts, which goes on without it. Raises CommandError if it is refused."""
    try:
        check_broker(app)
    except BrokerAway as away:
        log.warning("%s Work is found by polling until it answers.", away)
    else:
        metrics.BROKER_UP.set(1)


def _is_away(error: BaseException | None) -> bool:
    """Return whether the server cannot be reached yet, instead of refusing a login, a database or a protocol."""
    while error is not None:
        if isinstance(error, OSError):
            return not isinstance(error, ssl.SSLError)
        if isinstance(error, redis.BusyLoadingError | redis.TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False
