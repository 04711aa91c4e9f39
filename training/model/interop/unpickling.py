"""Unpickling tensors and nothing else: no class or function that a file names is imported or called."""

import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

# What a file of tensors needs. `torch.load` itself knows the storages.
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
}
# No trainer writes these beside its weights: a file that names one was made to run a program.
PROGRAM_MODULES = {
    "asyncio", "code", "commands", "ctypes", "importlib", "marshal", "multiprocessing", "nt", "os", "pickle", "posix",
    "pty", "runpy", "shutil", "socket", "subprocess", "sys", "timeit", "webbrowser",
}  # fmt: skip
PROGRAM_FUNCTIONS = {"__import__", "breakpoint", "compile", "eval", "exec", "execfile", "input", "open"}


class CodeError(pickle.UnpicklingError):
    """A pickle names a function that runs programs; the message is its name."""


class Placeholder:
    """Stands for any object that is not a weight: an OmegaConf, a Namespace, a Path, a callback. It does nothing."""

    dump_patches = False  # `torch.load` asks this of a module in the old format

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __call__(self, *arguments: object, **options: object) -> "Placeholder":
        """Stand for the result as well."""
        return self

    def __setstate__(self, state: object) -> None:
        """Drop the state."""

    def __setitem__(self, key: object, value: object) -> None:
        """Drop the item of what would be a mapping."""

    def append(self, value: object) -> None:
        """Drop the item of what would be a list."""

    def extend(self, values: object) -> None:
        """Drop the items of what would be a list."""

    def add(self, value: object) -> None:
        """Drop the item of what would be a set."""


class TensorUnpickler(pickle.Unpickler):
    """An unpickler that finds what is in `ALLOWED`, and a Placeholder for everything else. Raises CodeError."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return the replacement of a global name in a pickle; nothing is imported."""
        builtin = module_name in ("builtins", "__builtin__")
        if module_name.split(".")[0] in PROGRAM_MODULES or (builtin and global_name in PROGRAM_FUNCTIONS):
            raise CodeError(f"{module_name}.{global_name}")
        return ALLOWED.get((module_name, global_name), Placeholder)


def unpickle(path: Path, *, mapped: bool) -> Any:
    """Return the content of a file of `torch.save`, on the CPU, with a Placeholder for each object that is no tensor.

    mapped: read the tensors through a memory map, which only the zip format permits. Raises CodeError, and any other
    exception for a damaged file.
    """
    module = SimpleNamespace(
        Unpickler=TensorUnpickler,
        load=lambda file, **options: TensorUnpickler(file, **options).load(),
        __name__=__name__,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a pickle's version: reading succeeds or raises an error
        options: dict[str, Any] = {"map_location": "cpu", "pickle_module": module, "weights_only": False}
        if mapped and path.suffix != ".safetensors":  # torch.load trusts this ending of a path
            return torch.load(path, mmap=True, **options)
        with path.open("rb") as file:
            return torch.load(file, **options)
