"""Jobs complete although workers, dispatchers and servers are killed, stopped and cut off.

`make test` runs a few faults and `make chaos` two hundred: DARKROOM_CHAOS_FAULTS faults, drawn with the seed
DARKROOM_CHAOS_SEED. At the end every job has succeeded, and every image exists once with the bytes of a run without
faults.
"""

import hashlib
import os
import random
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis
from sqlalchemy import text

from services.local_stack import lifecycle, processes
from services.local_stack.state import read
from tests.chaos.proxy import NetworkFault, Proxy
from tests.support.processes import Supervised
from tests.support.stack import Stack, fresh_stack

FAULTS = int(os.environ.get("DARKROOM_CHAOS_FAULTS", "8"))
SEED = int(os.environ.get("DARKROOM_CHAOS_SEED", "0"))
QUICK = {
    "DARKROOM_STALE_S": "4",
    "DARKROOM_HEARTBEAT_S": "0.5",
    "DARKROOM_POLL_S": "0.5",
    "DARKROOM_STEP_LIMIT_S": "30",
    "DARKROOM_DRAIN_S": "2",
    "OMP_NUM_THREADS": "1",
}
# Sets the clock of a process an hour ahead or behind.
SKEWED = "import time; now = time.time; time.time = lambda: now() + {}\n"


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """A stack that the test may damage."""
    with fresh_stack() as stack:
        yield stack


class Chaos:
    """The processes and connections that faults are injected into."""

    def __init__(self, stack: Stack, draw: random.Random) -> None:
        self.stack, self.draw = stack, draw
        state = read(stack.root)
        assert state is not None
        self.postgres, self.s3 = Proxy(state.ports["postgres"]), Proxy(state.ports["s3"])
        self.cache = stack.root / "chaos-cache"
        self.counts: dict[str, int] = {}
        self.dispatchers = [Supervised(stack.root, "dispatcher", self._environment("dispatcher"))]
        self.workers = [
            Supervised(stack.root, "worker", self._environment("worker"), SKEWED.format(skew)) for skew in (3600, -3600)
        ]

    def _environment(self, role: str) -> dict[str, str]:
        settings = self.stack.settings(role)  # type: ignore[arg-type]
        url = self.stack.engine(role).url.set(port=self.postgres.port)  # type: ignore[arg-type]
        assert settings.s3_endpoint_url is not None
        address = settings.s3_endpoint_url.rsplit(":", 1)[0]
        return {
            **QUICK,
            "DARKROOM_DATABASE_URL": url.render_as_string(hide_password=False),
            "DARKROOM_S3_ENDPOINT_URL": f"{address}:{self.s3.port}",
            "DARKROOM_CACHE_DIR": str(self.cache),
        }

    # -- faults ----------------------------------------------------------------------------------

    def fault(self) -> None:
        """Inject one random fault and wait until it is over."""
        faults: list[Callable[[], None]] = [
            self.kill_worker, self.kill_worker, self.freeze_worker, self.drain_worker, self.kill_dispatcher,
            self.freeze_dispatcher, self.flush_broker, self.restart_broker, self.restart_postgres,
            self.cut_postgres, self.hang_postgres, self.bad_s3, self.bad_s3, self.full_disk,
        ]  # fmt: skip
        fault = self.draw.choice(faults)
        self.counts[fault.__name__] = self.counts.get(fault.__name__, 0) + 1
        fault()

    def pause(self, low: float, high: float) -> None:
        time.sleep(self.draw.uniform(low, high))

    def kill_worker(self) -> None:
        self.draw.choice(self.workers).signal(signal.SIGKILL)

    def drain_worker(self) -> None:
        self.draw.choice(self.workers).signal(signal.SIGTERM)

    def kill_dispatcher(self) -> None:
        self.draw.choice(self.dispatchers).signal(signal.SIGKILL)

    def freeze_worker(self) -> None:
        """Freeze a worker for longer than a heartbeat may be late. It has lost its leases when it wakes."""
        worker = self.draw.choice(self.workers)
        worker.signal(signal.SIGSTOP)
        self.pause(4, 7)
        worker.signal(signal.SIGCONT)

    def freeze_dispatcher(self) -> None:
        dispatcher = self.draw.choice(self.dispatchers)
        dispatcher.signal(signal.SIGSTOP)
        self.pause(1, 6)
        dispatcher.signal(signal.SIGCONT)

    def flush_broker(self) -> None:
        url = self.stack.settings("worker").broker_url
        assert url is not None
        broker = redis.Redis.from_url(url.get_secret_value())
        broker.flushall()
        broker.close()

    def restart_broker(self) -> None:
        self._restart("broker", signal.SIGKILL)

    def restart_postgres(self) -> None:
        self._restart("postgres", self.draw.choice([signal.SIGINT, signal.SIGQUIT]))

    def _restart(self, part: str, number: signal.Signals) -> None:
        process = processes.find(self.stack.root, part)
        assert process is not None
        process.send_signal(number)
        process.wait(30)
        self.pause(0, 2)
        lifecycle.start(self.stack.root)
        for engine in self.stack._engines.values():
            engine.dispose()

    def cut_postgres(self) -> None:
        self._disturb(self.postgres, "reset", 0.2, 2)

    def hang_postgres(self) -> None:
        self._disturb(self.postgres, "silent", 1, 6)

    def bad_s3(self) -> None:
        faults: list[NetworkFault] = ["reset", "silent", "slow", "unavailable", "broken"]
        self._disturb(self.s3, self.draw.choice(faults), 0.5, 5)

    def _disturb(self, proxy: Proxy, fault: NetworkFault, low: float, high: float) -> None:
        proxy.set(fault)
        self.pause(low, high)
        proxy.set("pass")

    def full_disk(self) -> None:
        """Start a worker while its release cache cannot be written."""
        worker = self.draw.choice(self.workers)
        shutil.rmtree(self.cache, ignore_errors=True)
        self.cache.write_text("no folder can be made here")
        worker.signal(signal.SIGKILL)
        self.pause(4, 8)
        self.cache.unlink(missing_ok=True)

    def heal(self) -> None:
        """End all faults."""
        self.postgres.set("pass")
        self.s3.set("pass")
        if self.cache.is_file():
            self.cache.unlink()
        for one in (*self.workers, *self.dispatchers):
            one.signal(signal.SIGCONT)

    def close(self) -> None:
        for one in (*self.workers, *self.dispatchers):
            one.stop()
        self.postgres.close()
        self.s3.close()


def request(draw: random.Random) -> dict[str, object]:
    """Return a random request of 1 to 64 images and 2 to 12 steps."""
    items = [{"class_label": draw.randrange(10)} for _ in range(draw.randint(1, 8))]
    return {
        "items": items,
        "images_per_item": draw.randint(1, 8),
        "steps": draw.randint(2, 12),
        "solver": draw.choice(["ddim", "dpm_solver_2m", "unipc", "euler_ancestral"]),
        "guidance_scale": draw.choice([1.0, 2.0, 3.5]),
        "seed": draw.randrange(2**31),
    }


def submit(stack: Stack, request_: dict[str, object]) -> uuid.UUID:
    """Submit until Postgres accepts the job. The idempotency key makes it one job."""
    key = uuid.uuid4().hex
    while True:
        try:
            return stack.submit(request_, idempotency_key=key)
        except Exception as error:
            if "jobs_tenant_idempotency_key_key" in str(error):
                with stack.engine("submitter").connect() as connection:
                    found = connection.scalar(text("SELECT id FROM jobs WHERE idempotency_key = :key"), {"key": key})
                    return found
            time.sleep(0.3)


@pytest.mark.timeout(FAULTS * 20 + 600)
def test_nothing_is_lost_whatever_dies(own_stack: Stack) -> None:
    draw = random.Random(SEED)
    chaos = Chaos(own_stack, draw)
    requests: dict[uuid.UUID, dict[str, object]] = {}
    try:
        for number in range(FAULTS):
            if number % 3 == 0:
                for _ in range(2):
                    request_ = request(draw)
                    requests[submit(own_stack, request_)] = request_
            chaos.pause(0.2, 3)
            chaos.fault()
        chaos.heal()
        for job_id in requests:
            row = own_stack.wait(job_id, timeout=300)
            assert row.state == "succeeded", (row.state, row.reason, [o.error for o in own_stack.outputs(job_id)][:3])
    finally:
        print(
            len(requests),
            "jobs,",
            chaos.counts,
            "starts:",
            [one.starts for one in (*chaos.workers, *chaos.dispatchers)],
        )
        chaos.close()
    found = {job_id: images(own_stack, job_id) for job_id in requests}
    check_no_work_is_left(own_stack)
    assert found == faultless(own_stack, requests)


def images(stack: Stack, job_id: uuid.UUID) -> list[str]:
    """Return the sha256 of a job's images. Checks that S3 holds these images, the listings and nothing else."""
    rows, store = stack.outputs(job_id), stack.store()
    job = stack.job(job_id)
    assert [row.index for row in rows] == list(range(job.total))
    prefix = f"outputs/default/{job_id}/"
    listed = store.client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix=prefix)
    keys = {entry["Key"] for page in listed for entry in page.get("Contents", [])}
    listings = {f"{prefix}{name}" for name in ("outputs-00000.jsonl", "errors.jsonl", "manifest.json")}
    assert keys == {row.key for row in rows} | listings
    for row in rows:
        assert hashlib.sha256(store.get(row.key)).hexdigest() == row.sha256
    return [row.sha256 for row in rows]


def check_no_work_is_left(stack: Stack) -> None:
    """Check that no work is left."""
    with stack.engine("migrator").connect() as connection:
        left = connection.execute(text("SELECT state, kind FROM work WHERE state NOT IN ('done', 'failed')")).all()
    assert left == []


def faultless(stack: Stack, requests: dict[uuid.UUID, dict[str, object]]) -> dict[uuid.UUID, list[str]]:
    """Return the sha256 of the images that the same requests give without faults."""
    environment = {"OMP_NUM_THREADS": "1"}
    with stack.process("dispatcher", **environment), stack.process("worker", **environment):
        again = {job_id: stack.submit(request_) for job_id, request_ in requests.items()}
        return {
            job_id: [row.sha256 for row in stack.outputs(stack.wait(twin, timeout=300).id)]
            for job_id, twin in again.items()
        }
