"""Reading their files, a YAML configuration and a checkpoint, without executing anything in them."""

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

TRAINER = (
    "pytorch_lightning.",
    "lightning.",
    "lightning_fabric.",
    "numpy.",
)  # packages whose classes occur among the tensors


class Bookkeeping:
    """A stand-in for classes of the training framework, such as Lightning's `ModelCheckpoint` in released files.

    It accepts any state and does nothing, so that such files can be read without the framework and without running its
    code.
    """

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_config(path: Path) -> dict[str, Any]:
    """Return the `model` block of a YAML file, which may also contain only that block. Raises CompVisError."""
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
    """Return the tensors of a .ckpt or .safetensors file. Raises CompVisError for any other content, such as code."""
    try:
        content = load_file(path) if path.suffix == ".safetensors" else load(path)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        detail = f": it names {named[1]}, which is code" if named else ", or is damaged"
        raise CompVisError(f"{path}: refused, it contains more than tensors{detail}") from None
    except Exception as error:  # the bytes of another format can make the unpickler raise anything
        reason = str(error).split("\n")[0] or type(error).__name__
        raise CompVisError(f"{path}: cannot be read, it is missing or damaged ({reason})") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CompVisError(f"{path}: has no state_dict of tensors")
    return state


def load(path: Path) -> Any:
    """Unpickle tensors, numbers and containers. Raises UnpicklingError for any other class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a pickle's version: reading succeeds or raises an error
        named = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        with safe_globals([(Bookkeeping, name) for name in named if name.startswith(TRAINER)]):
            return torch.load(path, map_location="cpu", weights_only=True)


def read_tokenizer(path: Path) -> Mapping[str, bytes]:
    """Read the assets of a tokenizer. Raises CompVisError."""
    try:
        return read_assets(path)
    except (OSError, ValueError) as error:
        raise CompVisError(f"tokenizer: {error}") from None
