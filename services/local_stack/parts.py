"""The three parts of the local stack: how each is started and how it shows that it works."""

from pathlib import Path

from services.local_stack.part import Part
from services.local_stack.postgres import Postgres
from services.local_stack.seaweedfs import ObjectStore
from services.local_stack.valkey import Broker


def all_parts(root: Path) -> tuple[Part, ...]:
    """The parts in the order in which they are shown."""
    return (Postgres(root), Broker(root), ObjectStore(root))
