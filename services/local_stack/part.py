"""A server of the local stack."""

import signal
from abc import ABC, abstractmethod
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from services.local_stack.processes import Stop
from services.local_stack.state import StackError, StackState

PROBE_TIMEOUT_S = 5


class Part(ABC):
    """One server of the stack, with its data in a folder of its own."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    stop_timeout_s: ClassVar[float] = 30.0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / self.name

    @property
    def stop(self) -> Stop:
        """Return how to stop the server."""
        return Stop(self.name, self.stop_signal, self.stop_timeout_s)

    @abstractmethod
    def launch(self, state: StackState) -> None:
        """Start the server on its data, and return without waiting for it."""

    @abstractmethod
    def probe(self, state: StackState) -> None:
        """Raise unless the server accepts our credentials."""

    def settle(self, state: StackState) -> None:
        """Raise unless a server that was just started can do its work. Creates what it needs for that."""
        self.probe(state)

    def make_directory(self) -> None:
        """Create the folder of this part, which others cannot enter."""
        self.directory.mkdir(mode=0o700, exist_ok=True)


def installed_program(distribution: str, ending: str) -> Path:
    """Return the program that a Python package contains, without importing the package. Raises StackError."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith(ending):
            return Path(str(file.locate())).resolve()
    raise StackError(f"{ending.rpartition('/')[2]} is missing. Install it with: pip install {distribution}")
