"""The faults that are injected into a running service, one at a time."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import redis

from services.local_stack import lifecycle, processes
from tests.chaos.proxied import Proxies
from tests.chaos.proxy import NetworkFault, Proxy
from tests.support.processes import Supervised
from tests.support.stack import Stack
from tests.support.tenants import Tenant, administrator, make_tenant

# Code for the start of a process, which obeys files in the folder CONTROL:
# clock-ROLE: by how many seconds the clock is wrong. truncate: the store loses the end of every object and says it has
# stored it. freeze-ROLE: the process stops within its next transaction, just before the commit.
CONTROLLED = """
import os, signal, threading, time
from pathlib import Path
import botocore.client
import sqlalchemy
from sqlalchemy import event

os.environ["DARKROOM_DATABASE_URL"] += f"?application_name={{os.getpid()}}"  # who does what is recorded
CONTROL, ROLE, skew = Path({control!r}), {role!r}, {skew}
step, now = [0.0], time.time
time.time = lambda: now() + skew + step[0]

def follow_clock():
    while True:
        try:
            step[0] = float((CONTROL / f"clock-{{ROLE}}").read_text())
        except (OSError, ValueError):
            step[0] = 0.0
        time.sleep(0.2)

threading.Thread(target=follow_clock, daemon=True).start()
call = botocore.client.BaseClient._make_api_call

def lossy_call(self, operation, arguments):
    if operation == "PutObject" and (CONTROL / "truncate").exists() and isinstance(arguments.get("Body"), bytes):
        arguments = {{**arguments, "Body": arguments["Body"][: len(arguments["Body"]) // 2]}}
        arguments.pop("ContentMD5", None)
    return call(self, operation, arguments)

botocore.client.BaseClient._make_api_call = lossy_call

@event.listens_for(sqlalchemy.Engine, "commit")
def freeze(connection):
    try:
        (CONTROL / f"freeze-{{ROLE}}").unlink()
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)
"""
POISON = (
    {"deadline": "-infinity"},
    {"deadline": "infinity"},
    {"run_after": "infinity"},
    {"model": "tiny@999999999999999999999"},
    {"request": '{"items": [{"class_label": 1e400}]}'},
    {"request": '{"items": "\\u0001", "steps": -1e308}'},
    {"request": '{"input_uri": "inputs/poison/../../secret"}'},
)


def block_folder(folder: Path) -> None:
    """Put a file in the place of a folder, which a process may make again meanwhile."""
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.write_text("no folder can be made here")
            return
        except IsADirectoryError:
            continue


class Chaos:
    """The processes and connections that faults are injected into."""

    def __init__(self, stack: Stack, draw: random.Random) -> None:
        self.stack, self.draw = stack, draw
        self.control = stack.root / "chaos-control"
        self.control.mkdir()
        self.poisoner: Tenant = make_tenant(stack, "poisoner")
        with administrator(stack) as owner:  # today's checks refuse what rows of earlier versions may hold
            owner.execute("ALTER TABLE jobs DISABLE TRIGGER check_columns")
            owner.execute("GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO tenant_poisoner")
        self.proxies = Proxies(stack)
        self.cache = stack.root / "chaos-cache"
        self.counts: dict[str, int] = {}
        self.dispatchers = [self._supervised("dispatcher", skew) for skew in (0, 0)]
        self.workers = [self._supervised("worker", skew) for skew in (3600, -3600)]

    def _supervised(self, role: str, skew: int) -> Supervised:
        code = CONTROLLED.format(control=str(self.control), role=role, skew=skew)
        environment = {**self.proxies.environment(role), "DARKROOM_CACHE_DIR": str(self.cache)}
        return Supervised(self.stack.root, role, environment, first=code)

    # -- faults ----------------------------------------------------------------------------------

    def fault(self) -> None:
        """Inject one random fault and wait until it is over."""
        faults: list[Callable[[], None]] = [
            self.kill_worker, self.kill_worker, self.freeze_worker, self.drain_worker, self.kill_dispatcher,
            self.freeze_dispatcher, self.flush_broker, self.restart_broker, self.restart_postgres,
            self.cut_postgres, self.hang_postgres, self.bad_s3, self.bad_s3, self.full_disk,
            self.hang_broker, self.truncate_objects, self.read_only_postgres, self.freeze_in_a_transaction,
            self.damage_the_cache, self.hold_locks, self.step_the_clock, self.poison, self.poison,
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
        self._disturb(self.proxies.postgres, "reset", 0.2, 2)

    def hang_postgres(self) -> None:
        self._disturb(self.proxies.postgres, "silent", 1, 6)

    def bad_s3(self) -> None:
        faults: list[NetworkFault] = ["reset", "silent", "slow", "unavailable", "broken"]
        self._disturb(self.proxies.s3, self.draw.choice(faults), 0.5, 5)

    def _disturb(self, proxy: Proxy, fault: NetworkFault, low: float, high: float) -> None:
        proxy.set(fault)
        self.pause(low, high)
        proxy.set("pass")

    def full_disk(self) -> None:
        """Start a worker while its release cache cannot be written."""
        worker = self.draw.choice(self.workers)
        block_folder(self.cache)
        worker.signal(signal.SIGKILL)
        self.pause(4, 8)
        self.cache.unlink(missing_ok=True)

    def hang_broker(self) -> None:
        self._disturb(self.proxies.broker, "silent", 2, 8)

    def truncate_objects(self) -> None:
        """Let the store lose the end of every object that it says it has stored."""
        self._while("truncate", "", 0.5, 3)

    def _while(self, name: str, content: str, low: float, high: float) -> None:
        (self.control / name).write_text(content)
        self.pause(low, high)
        (self.control / name).unlink(missing_ok=True)

    def step_the_clock(self) -> None:
        role = self.draw.choice(["worker", "dispatcher"])
        self._while(f"clock-{role}", str(self.draw.choice([-86400, -5, 5, 86400])), 1, 5)

    def read_only_postgres(self) -> None:
        """Let Postgres refuse all writes for a while, as a standby does before it is promoted."""
        for value in ("on", "off"):
            with administrator(self.stack) as owner:
                owner.execute("SET default_transaction_read_only = off")
                owner.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
                owner.execute("SELECT pg_reload_conf()")
            if value == "on":
                self.pause(1, 5)

    def freeze_in_a_transaction(self) -> None:
        """Freeze a process that has locks, for longer than Postgres lets it hold them."""
        role = self.draw.choice(["worker", "dispatcher"])
        self._while(f"freeze-{role}", "", 1, 2)
        self.pause(8, 12)
        for one in (*self.workers, *self.dispatchers):
            one.signal(signal.SIGCONT)

    def damage_the_cache(self) -> None:
        """Damage a file of a cached release, and start a worker that loads it."""
        files = [path for path in self.cache.rglob("*") if path.is_file()] if self.cache.is_dir() else []
        if files:
            damaged = self.draw.choice(files)
            if self.draw.random() < 0.5:
                damaged.unlink(missing_ok=True)
            else:
                damaged.write_bytes(damaged.read_bytes()[:-1])
        self.draw.choice(self.workers).signal(signal.SIGKILL)

    def hold_locks(self) -> None:
        """Hold what a client can hold: advisory locks and an open transaction."""
        with self.poisoner.connect(autocommit=False) as connection:
            for key in ("darkroom reconcile", "darkroom blobs", "darkroom migrations"):
                connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (key,))
            connection.execute("LISTEN darkroom_work")
            connection.execute("INSERT INTO jobs (model, request) VALUES ('tiny', '{}')")
            self.pause(2, 6)
            connection.rollback()

    def poison(self) -> None:
        """Insert a row that no process can handle, and cancel it half of the time."""
        columns = {"model": "tiny", "request": '{"items": [{"class_label": 1}]}', **self.draw.choice(POISON)}
        with self.poisoner.connect() as connection:
            names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
            statement = f"INSERT INTO jobs ({names}) VALUES ({marks}) RETURNING id"
            row = connection.execute(statement, list(columns.values())).fetchone()
            if self.draw.random() < 0.5 or "run_after" in columns:
                connection.execute("SELECT cancel_job(%s)", row)

    def heal(self) -> None:
        """End all faults."""
        for path in self.control.iterdir():
            path.unlink(missing_ok=True)
        self.proxies.heal()
        if self.cache.is_file():
            self.cache.unlink()
        for one in (*self.workers, *self.dispatchers):
            one.signal(signal.SIGCONT)

    def close(self) -> None:
        for one in (*self.workers, *self.dispatchers):
            one.stop()
        self.proxies.close()
