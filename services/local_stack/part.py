"""A server of the local stack."""

import signal
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from services.local_stack.state import StackState

PROBE_TIMEOUT_S = 5


class Part(ABC):
    """One server of the stack, with its data in a folder of its own."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    stop_timeout_s: ClassVar[float] = 30.0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / self.name

    @abstractmethod
    def launch(self, state: StackState) -> None:
        """Start the server on its data; return without waiting for it."""

    @abstractmethod
    def probe(self, state: StackState) -> None:
        """Raise unless the server answers to our credentials."""

    def settle(self, state: StackState) -> None:
        """Raise unless a server just started can do its work; create what it lacks."""
        self.probe(state)

    def make_directory(self) -> None:
        """Create the folder of this part, closed to others."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
