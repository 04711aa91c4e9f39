"""The cause of each alert, in a running service, and what its runbook in docs/operations.md says against it.

A cause is a context: it begins with the fault and ends with the remedy. It yields what goes on meanwhile, if anything.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress

from tests.chaos.faults import block_folder
from tests.chaos.proxied import Proxies
from tests.chaos.proxy import NetworkFault, Proxy
from tests.support.http import free_port, scrape_metrics
from tests.support.notification_queue import fill_queue, listen_without_end, make_small_queue
from tests.support.processes import Supervised
from tests.support.stack import Stack
from tests.support.tenants import SMALL, Tenant, administrator, make_tenant

LARGE = {"items": [{"class_label": 1}], "images_per_item": 64, "steps": 100, "guidance_scale": 2.0}


class Service:
    """A stack with a dispatcher, an exporter and a worker, which are restarted when they end."""

    PARTS = ("dispatcher", "exporter", "worker")

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        make_small_queue(stack)
        self.client: Tenant = make_tenant(stack, "client")
        self.proxies = Proxies(stack)
        self.ports = {name: free_port() for name in self.PARTS}
        self.cache = stack.root / "alerts-cache"
        self.running = {name: self.start(name) for name in self.ports}

    def start(self, name: str) -> Supervised:
        environment = {
            **self.proxies.environment({"exporter": "observer"}.get(name, name)),
            "DARKROOM_METRICS_PORT": str(self.ports[name]),
            "DARKROOM_CACHE_DIR": str(self.cache),
            "DARKROOM_STEP_LIMIT_S": "120",  # so that the watchdog does not end what an alert is to report
        }
        return Supervised(self.stack.root, name, environment)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Stop a process, and start it again at the end."""
        self.running[name].stop()
        try:
            yield
        finally:
            self.running[name] = self.start(name)

    @contextmanager
    def network(self, proxy: Proxy, fault: NetworkFault) -> Iterator[None]:
        proxy.set(fault)
        try:
            yield
        finally:
            proxy.set("pass")

    @contextmanager
    def revoked(self, right: str, role: str) -> Iterator[None]:
        """Take a right from the role of a login."""
        with administrator(self.stack) as owner:
            owner.execute(f"REVOKE {right} FROM {role}")
        try:
            yield
        finally:
            with administrator(self.stack) as owner:
                owner.execute(f"GRANT {right} TO {role}")

    @contextmanager
    def locked(self, statement: str) -> Iterator[None]:
        """Hold the locks of a statement."""
        with closing(administrator(self.stack)) as owner, owner.transaction():
            owner.execute(statement)
            yield

    def upload_lines(self) -> str:
        """Store an input of one line. Returns its URI."""
        key = "inputs/client/lines.jsonl"
        self.stack.store().put(key, b'{"class_label": 1}\n', content_type="application/jsonl")
        return str(self.stack.store().uri(key))

    def submit(self, request: dict[str, object] = SMALL, **columns: str) -> None:
        """Submit a job of one client."""
        self.client.submit(request, **columns)

    def close(self) -> None:
        """Stop the processes."""
        for one in self.running.values():
            one.stop()
        self.proxies.close()


Cause = Callable[[Service], AbstractContextManager[Callable[[], object] | None]]


@contextmanager
def backlog_growing(service: Service) -> Iterator[Callable[[], object]]:
    with service.without("worker"):
        yield service.submit


@contextmanager
def jobs_not_planned(service: Service) -> Iterator[None]:
    with service.without("dispatcher"):
        service.submit()
        yield


@contextmanager
def job_stuck(service: Service) -> Iterator[None]:
    """Its images cannot be stored."""
    service.submit(LARGE)
    with service.network(service.proxies.s3, "silent"):
        yield


@contextmanager
def images_failing(service: Service) -> Iterator[Callable[[], object]]:
    """They begin with a picture that is none."""
    item = {"class_label": 1, "image": service.upload_lines(), "strength": 0.5}
    yield lambda: service.submit({**SMALL, "items": [item]})


@contextmanager
def set_aside(service: Service) -> Iterator[None]:
    """A job that must stop has a plan that no code can read."""
    job = service.client.submit(run_after="2100-01-01")
    with administrator(service.stack) as owner:
        owner.execute(
            "UPDATE jobs SET state = 'planned', plan = '{\"images_per_item\": \"many\"}', total = 32, revision = 2, "
            "release_id = (SELECT min(id) FROM releases), run_after = NULL, deadline = '2020-01-01' WHERE id = %s",
            (job,),
        )
        owner.execute(
            "INSERT INTO work (job_id, kind, stop, queue, tenant, state, run_after) "
            "VALUES (%s, 'sample', 32, 'default', 'client', 'delayed', '2100-01-01')",
            (job,),
        )
    yield


@contextmanager
def no_dispatcher(service: Service) -> Iterator[None]:
    with service.without("dispatcher"):
        yield


@contextmanager
def loop_failing(service: Service) -> Iterator[None]:
    with service.revoked("SELECT ON jobs", "darkroom_dispatcher"):
        yield


@contextmanager
def attempt_silent(service: Service) -> Iterator[None]:
    """The object store does not answer while a job's lines are read."""
    uri = service.upload_lines()
    with service.network(service.proxies.s3, "silent"):
        service.submit({"input_uri": uri, **{name: SMALL[name] for name in ("steps", "guidance_scale")}})
        yield


@contextmanager
def lock_missed(service: Service) -> Iterator[None]:
    """Another process holds the row for ever, and a job must stop."""
    with service.without("worker"):
        job = service.client.submit(LARGE)
        service.client.wait(job, "planned")
        with service.locked("SELECT FROM service_locks WHERE name = 'reconcile' FOR UPDATE"):
            with service.client.connect() as connection:
                connection.execute("SELECT cancel_job(%s)", (job,))
            yield


@contextmanager
def worker_flapping(service: Service) -> Iterator[Callable[[], object]]:
    """It dies soon after each start."""

    def kill_once_scraped() -> None:
        with suppress(OSError):
            scrape_metrics(service.ports["worker"])
            time.sleep(2.5)
            service.running["worker"].signal(signal.SIGKILL)

    yield kill_once_scraped


@contextmanager
def work_lost(service: Service) -> Iterator[Callable[[], object]]:
    """Nodes disappear without warning."""
    service.submit(LARGE)

    def kill_at_work() -> None:
        with administrator(service.stack) as owner:
            if owner.execute("SELECT 1 FROM work WHERE kind = 'sample' AND state = 'leased'").fetchone():
                service.running["worker"].signal(signal.SIGKILL)

    yield kill_at_work


@contextmanager
def release_not_held(service: Service) -> Iterator[None]:
    """The cache cannot be written when a worker needs a release."""
    with service.without("worker"):  # which forgets what it has loaded
        pass
    while "serves queues" not in service.running["worker"].log.read_text():
        time.sleep(0.1)
    block_folder(service.cache)
    service.submit()
    try:
        yield
    finally:
        service.cache.unlink()


@contextmanager
def gpu_idle(service: Service) -> Iterator[None]:
    """The login of the workers may not claim."""
    with service.revoked("SELECT, UPDATE ON work", "darkroom_worker"):
        service.submit()
        yield


@contextmanager
def object_store_errors(service: Service) -> Iterator[Callable[[], object]]:
    with service.network(service.proxies.s3, "unavailable"):
        yield service.submit


@contextmanager
def database_errors(service: Service) -> Iterator[None]:
    """Only the processes lose it. The exporter's process is one of them."""
    with service.network(service.proxies.postgres, "reset"):
        yield


@contextmanager
def notification_queue_filling(service: Service) -> Iterator[None]:
    """A session of the tables' owner listens and does not end its transaction."""
    with closing(administrator(service.stack)) as listener, service.client.connect() as sender:
        listen_without_end(listener)
        fill_queue(sender, 0.4)
        yield


@contextmanager
def broker_down(service: Service) -> Iterator[Callable[[], object]]:
    """It is noticed when there is something to say."""
    with service.network(service.proxies.broker, "reset"):
        yield service.submit


@contextmanager
def exporter_down(service: Service) -> Iterator[None]:
    with service.without("exporter"):
        yield


@contextmanager
def reading_fails(service: Service) -> Iterator[None]:
    with service.revoked("SELECT ON queue_load", "darkroom_observer"):
        yield


CAUSES: Mapping[str, Cause] = {
    "DarkroomBacklogGrowing": backlog_growing,
    "DarkroomJobsNotPlanned": jobs_not_planned,
    "DarkroomJobStuck": job_stuck,
    "DarkroomImagesFailing": images_failing,
    "DarkroomSetAside": set_aside,
    "DarkroomNoDispatcher": no_dispatcher,
    "DarkroomLoopFailing": loop_failing,
    "DarkroomAttemptSilent": attempt_silent,
    "DarkroomLockMissed": lock_missed,
    "DarkroomWorkerFlapping": worker_flapping,
    "DarkroomWorkLost": work_lost,
    "DarkroomReleaseNotHeld": release_not_held,
    "DarkroomGpuIdle": gpu_idle,
    "DarkroomObjectStoreErrors": object_store_errors,
    "DarkroomDatabaseErrors": database_errors,
    "DarkroomNotificationQueueFilling": notification_queue_filling,
    "DarkroomBrokerDown": broker_down,
    "DarkroomExporterDown": exporter_down,
    "DarkroomReadingFails": reading_fails,
}
