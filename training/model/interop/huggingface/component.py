"""One folder of an export: a configuration, and weights under the names that diffusers gives them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from training.errors import DarkroomError

VERSION = "0.42.1"  # the diffusers whose layout is written
CONVOLUTIONS = ("conv_shortcut", "proj_in", "proj_out")  # theirs are 1x1 convolutions, ours may be linear layers

Names = Iterator[tuple[str, str]]  # (our prefix, theirs)


class ExportError(DarkroomError):
    """A model that diffusers cannot express, or a folder that cannot be written; the message names the field."""


@dataclass(frozen=True)
class Component:
    """What `from_pretrained` of one class reads."""

    library: str  # as `model_index.json` names it
    class_name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    config_file: str = "config.json"
    weights_file: str = "diffusion_pytorch_model.safetensors"
    files: dict[str, bytes] = field(default_factory=dict)  # written as they are

    def write(self, folder: Path) -> None:
        """Write the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / self.config_file, self.config)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        if self.tensors:
            path = folder / self.weights_file
            path.touch()
            mode = path.stat().st_mode  # of the folder's other files: safetensors makes its own private
            save_file({n: t.detach().contiguous() for n, t in self.tensors.items()}, path, {"format": "pt"})
            path.chmod(mode)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file as diffusers writes it."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def model_config(class_name: str, **config: Any) -> dict[str, Any]:
    """The configuration of a diffusers class."""
    return {"_class_name": class_name, "_diffusers_version": VERSION, **config}


def renamed(module: nn.Module, names: Names, leave_out: Sequence[str] = ()) -> dict[str, Tensor]:
    """Every tensor of a module under diffusers' name, but those of `leave_out`.

    Raises ExportError for a tensor that has no place there.
    """
    theirs, tensors = dict(names), {}
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


def expressible(part: str, config: Any, handled: Sequence[str]) -> None:
    """Raise ExportError for a field that this export does not know and that is not at its default.

    So a model with a property that is newer than the export is refused, not written wrongly.
    """
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name not in handled and value != each.default:
            raise ExportError(f"{part}.{each.name}: {value!r} cannot be exported; permitted: {each.default!r}")
