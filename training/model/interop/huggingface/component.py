"""One folder of an export: a configuration, and weights under the names that diffusers gives them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from training.errors import DarkroomError

VERSION = "0.42.1"  # of diffusers, whose layout is written
OURS = "_darkroom"  # the field of a configuration that only we read; diffusers skips names that begin with _
CONVOLUTIONS = ("conv_shortcut", "proj_in", "proj_out")  # 1x1 convolutions of theirs that may be linear layers of ours

Names = Iterator[tuple[str, str]]  # (our prefix, theirs)


class ExportError(DarkroomError):
    """A model that diffusers cannot express, or a folder that cannot be written; the message names the field."""


@dataclass(frozen=True)
class Component:
    """The files that one class's `from_pretrained` reads."""

    library: str  # as `model_index.json` names it
    class_name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    config_file: str = "config.json"
    weights_file: str = "diffusion_pytorch_model.safetensors"
    files: dict[str, bytes] = field(default_factory=dict)  # written unchanged

    def write(self, folder: Path) -> None:
        """Write the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / self.config_file, self.config)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        write_tensors(folder / self.weights_file, self.tensors)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, or nothing if there are none."""
    if tensors:
        path.touch()
        mode = path.stat().st_mode  # the usual permissions; safetensors alone would make the file private
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, path, {"format": "pt"})
        path.chmod(mode)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as diffusers does."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def model_config(class_name: str, **config: Any) -> dict[str, Any]:
    """Return the configuration of a diffusers class."""
    return {"_class_name": class_name, "_diffusers_version": VERSION, **config}


def rename_tensors(module: nn.Module, names: Names, leave_out: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the tensors of a module, except `leave_out`, under the names in diffusers.

    Raises ExportError for a tensor that has no name there.
    """
    theirs = dict(names)
    tensors: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        if name in leave_out:
            continue
        prefix, _, leaf = name.rpartition(".")
        if prefix not in theirs:
            raise ExportError(f"{name}: diffusers has no place for this tensor")
        if tensor.dim() == 2 and theirs[prefix].endswith(CONVOLUTIONS):
            tensor = tensor[:, :, None, None]
        tensors[f"{theirs[prefix]}.{leaf}"] = tensor
    return tensors


def check_expressible(part: str, config: Any, handled: Sequence[str]) -> None:
    """Raise ExportError for a field that is not among `handled` and does not have its default value.

    A model with a property that is newer than this export is thus refused instead of written wrongly.
    """
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name not in handled and value != each.default:
            raise ExportError(f"{part}.{each.name}: {value!r} cannot be exported; permitted: {each.default!r}")
