"""Reading their files, a YAML configuration and a checkpoint, without executing anything in them."""

from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from training.model.interop.compvis.reading import CompVisError
from training.model.interop.weight_files import WeightsError, read_tensors


def read_config(path: Path) -> dict[str, Any]:
    """Return the `model` block of a YAML file, which may also contain only that block. Raises CompVisError."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise CompVisError(f"{path}: cannot be read ({error.strerror}); give the model's YAML configuration") from None
    except UnicodeDecodeError:
        raise CompVisError(f"{path}: is not text; give the model's YAML configuration") from None
    except yaml.YAMLError as error:
        raise CompVisError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    block = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(block, dict) or "target" not in block:
        raise CompVisError(f"{path}: model.target is missing; give the configuration that the model was trained with")
    return block


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint; see `read_tensors`. Raises CompVisError."""
    try:
        return read_tensors(path)
    except WeightsError as error:
        raise CompVisError(str(error)) from None
