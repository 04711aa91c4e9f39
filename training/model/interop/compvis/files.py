"""Their files: a YAML configuration and a checkpoint, of which nothing is executed."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from training.model.conditioners.text_tokenizer import read_assets
from training.model.interop.compvis.reading import CompVisError

TRAINER = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "numpy.")  # whose classes lie beside the tensors


class Bookkeeping:
    """In place of a class of the training framework: released files name Lightning's `ModelCheckpoint`, for one.

    It takes whatever the file says of it and does nothing, so that such a file can be read without the framework and
    without running any of its code.
    """

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_config(path: Path) -> dict[str, Any]:
    """The `model` block of a configuration, or the block itself. Raises CompVisError."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CompVisError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise CompVisError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    block = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(block, dict) or "target" not in block:
        raise CompVisError(f"{path}: model.target is missing; give the configuration that the model was trained with")
    return block


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .ckpt or .safetensors file. Raises CompVisError for any other content, code above all."""
    try:
        content = load_file(path) if path.suffix == ".safetensors" else load(path)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        told = f": it names {named[1]}, which is code" if named else ", or is damaged"
        raise CompVisError(f"{path}: refused, it holds more than tensors{told}") from None
    except Exception as error:  # the bytes of another format fail in whatever way the unpickler meets first
        reason = str(error).split("\n")[0] or type(error).__name__
        raise CompVisError(f"{path}: cannot be read, it is missing or damaged ({reason})") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CompVisError(f"{path}: holds no state_dict of tensors")
    return state


def load(path: Path) -> Any:
    """A pickle's tensors, numbers and containers. Raises UnpicklingError for any other class in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a pickle's version: it is refused or read, and either is told
        named = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        with safe_globals([(Bookkeeping, name) for name in named if name.startswith(TRAINER)]):
            return torch.load(path, map_location="cpu", weights_only=True)


def read_tokenizer(path: Path) -> Mapping[str, bytes]:
    """A tokenizer's files. Raises CompVisError."""
    try:
        return read_assets(path)
    except (OSError, ValueError) as error:
        raise CompVisError(f"tokenizer: {error}") from None
