"""The names that a condition cannot have."""

from torch import nn

from training.model.release import ITEM_FIELDS


def check_name(name: str) -> None:
    """Raise ValueError if a condition cannot have this name."""
    if name in ITEM_FIELDS:
        raise ValueError(f"{name}: is a field of all requests; permitted: another name")
    if hasattr(nn.ModuleDict(), name):  # where the conditioners are kept
        raise ValueError(f"{name}: is a name that torch uses; permitted: another name")


def is_permitted(name: str) -> bool:
    """Return whether a condition can have this name."""
    try:
        check_name(name)
    except ValueError:
        return False
    return True
