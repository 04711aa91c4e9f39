"""The stored state of the local stack: its ports and passwords."""

import json
import os
import random
import secrets
import socket
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from training.disk import sync_to_disk
from training.errors import DarkroomError

ROOT_VARIABLE = "DARKROOM_ROOT"

HOST = "127.0.0.1"
SERVICES = ("postgres", "broker", "s3")
# Each is the SeaweedFS option of the same name. A port that is not set is opened at its well-known number.
SEAWEED_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
    "admin.port",
    "admin.port.grpc",
)
# SeaweedFS's worker expects the gRPC port of the admin server at this distance, whatever the options say.
ADMIN_GRPC_OFFSET = 10_000
# Also with that offset, these ports are below the ranges from which Linux and macOS take the source ports of outgoing
# connections, so that no such connection occupies a kept port at the moment of a restart.
PORT_RANGE = range(20_000, 22_768)


class StackError(DarkroomError):
    """The local stack cannot do what was asked; the message says what to do."""


@dataclass(frozen=True)
class StackState:
    """The ports and passwords of the parts. It is stored in `root/stack.json`, which only its owner can read."""

    postgres_port: int
    postgres_password: str = field(repr=False)
    broker_port: int
    broker_password: str = field(repr=False)
    s3_port: int
    s3_access_key_id: str
    s3_secret_access_key: str = field(repr=False)
    s3_bucket: str
    seaweed_ports: Mapping[str, int]

    @property
    def postgres_url(self) -> str:
        """Return the SQLAlchemy URL of the database `darkroom`."""
        return f"postgresql+psycopg://postgres:{self.postgres_password}@{HOST}:{self.postgres_port}/darkroom"

    @property
    def broker_url(self) -> str:
        """Return the URL of the Celery broker."""
        return f"redis://:{self.broker_password}@{HOST}:{self.broker_port}/0"

    @property
    def s3_endpoint_url(self) -> str:
        """Return the endpoint for S3 clients."""
        return f"http://{HOST}:{self.s3_port}"

    @property
    def ports(self) -> dict[str, int]:
        """Return every port of the stack by the name of its service or SeaweedFS option."""
        return {
            "postgres": self.postgres_port,
            "broker": self.broker_port,
            "s3": self.s3_port,
            **self.seaweed_ports,
        }

    def with_ports(self, ports: Mapping[str, int]) -> "StackState":
        """Return the same state with other ports."""
        return replace(
            self,
            postgres_port=ports["postgres"],
            broker_port=ports["broker"],
            s3_port=ports["s3"],
            seaweed_ports={name: ports[name] for name in SEAWEED_PORTS},
        )


def stack_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the local stack: DARKROOM_ROOT, or .darkroom in the working directory."""
    return Path(environ.get(ROOT_VARIABLE, ".darkroom")).resolve()


def create(ports: Mapping[str, int]) -> StackState:
    """Return the state of a new stack, with new passwords."""
    return StackState(
        postgres_port=ports["postgres"],
        postgres_password=secrets.token_urlsafe(32),
        broker_port=ports["broker"],
        broker_password=secrets.token_urlsafe(32),
        s3_port=ports["s3"],
        s3_access_key_id=secrets.token_hex(10).upper(),
        s3_secret_access_key=secrets.token_urlsafe(32),
        s3_bucket="darkroom",
        seaweed_ports={name: ports[name] for name in SEAWEED_PORTS},
    )


def read(root: Path) -> StackState | None:
    """Return the state of the stack in `root`, or None if it was never started. Raises StackError if it is damaged."""
    path = root / "stack.json"
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise StackError(f"{ROOT_VARIABLE}: {root} is not a folder; give a folder for the local stack") from None
    except OSError as error:
        raise StackError(f"{path} cannot be read ({error.strerror}). Run as the user who started the stack.") from None
    except (ValueError, TypeError) as error:
        raise StackError(
            f"{path} is damaged ({error}). Restore a good copy, or run `darkroom down` and delete {root} "
            "to start again without its database and objects."
        ) from None


def _parse(text: str) -> StackState:
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    state = StackState(**data)
    for item in fields(state):
        value = getattr(state, item.name)
        expected = item.type if item.type in (int, str) else dict
        # An empty password would switch the password check off.
        if type(value) is not expected or not value:
            raise ValueError(f"{item.name} has no usable value")
    if set(state.seaweed_ports) != set(SEAWEED_PORTS):
        raise ValueError("seaweed_ports does not name the expected ports")
    if any(type(port) is not int or not 0 < port < 65536 for port in state.ports.values()):
        raise ValueError("a port is not a number from 1 to 65535")
    return state


def write(root: Path, state: StackState) -> None:
    """Replace the stored state atomically: a crash leaves either the old or the new file."""
    descriptor, name = tempfile.mkstemp(prefix=".stack-", dir=root)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(state), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, root / "stack.json")
    except BaseException:
        os.unlink(name)
        raise
    sync_to_disk(root)


def choose_ports(kept: Mapping[str, int], requested: Mapping[str, int], running: Collection[str]) -> dict[str, int]:
    """Return a port for every name: the requested one, else the kept one if it is free, else a new one.

    Raises StackError if a requested port cannot be used.
    """
    if unknown := sorted(set(requested) - set(SERVICES)):
        raise StackError(f"No service is called {', '.join(unknown)}; ports can be set for {', '.join(SERVICES)}.")
    if len(set(requested.values())) < len(requested):
        raise StackError(f"Two services were given the same port ({dict(requested)}); give each its own.")
    ports: dict[str, int] = {}
    for name, port in requested.items():
        if name not in running and (refusal := _refusal(port)):
            raise StackError(
                f"{name}: port {port} cannot be used ({refusal}). "
                "Stop the program that holds it, or ask for another port."
            )
        if name in running and kept[name] != port:
            raise StackError(
                f"{name}: already runs on port {kept[name]}. Run `darkroom down` first, then start it on port {port}."
            )
        ports[name] = port
    for name in (*SERVICES, *SEAWEED_PORTS):
        if name in ports or name == "admin.port.grpc":
            continue
        service = name if name in SERVICES else "s3"
        previous = kept.get(name)
        if previous is not None and (service in running or _is_usable(name, previous, ports.values())):
            ports[name] = previous
        else:
            ports[name] = _new_port(name, {*kept.values(), *ports.values()})
    ports["admin.port.grpc"] = ports["admin.port"] + ADMIN_GRPC_OFFSET
    return ports


def _new_port(name: str, exclude: Collection[int]) -> int:
    for port in random.sample(PORT_RANGE, len(PORT_RANGE)):
        if _is_usable(name, port, exclude):
            return port
    raise StackError(f"{name}: no port from {PORT_RANGE.start} to {PORT_RANGE.stop} is free; close some programs.")


def _is_usable(name: str, port: int, exclude: Collection[int]) -> bool:
    needed = (port, port + ADMIN_GRPC_OFFSET) if name == "admin.port" else (port,)
    return all(number not in exclude and _refusal(number) is None for number in needed)


def _refusal(port: int) -> str | None:
    if not 0 < port < 65536:
        return "ports are numbers from 1 to 65535"
    with socket.socket() as probe:
        # Without this option, connections that linger after a restart would make a free port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.strerror or str(error)
    return None
