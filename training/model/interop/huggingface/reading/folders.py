"""The files of a folder of diffusers or transformers: a JSON configuration, and weights in one file or several."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from training.errors import DarkroomError
from training.model.interop.huggingface.component import VERSION
from training.model.interop.weight_files import read_tensors


class DiffusersError(DarkroomError):
    """A folder that cannot be read; the message names the file, the field or the tensors, and what is permitted."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises DiffusersError."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise DiffusersError(f"{path}: cannot be read ({error.strerror}); is the download complete?") from None
    except ValueError as error:  # not JSON, or not even UTF-8
        raise DiffusersError(f"{path}: not JSON ({error}); is the download complete?") from None
    if not isinstance(content, dict):
        raise DiffusersError(f"{path}: not a JSON object; give the file that diffusers wrote")
    return content


def read_weights(folder: Path, stem: str, variant: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a part, whose weights are in STEM.safetensors, in STEM.bin, or in shards of either.

    variant: for the weights in STEM.VARIANT.safetensors; by default "fp16" if the folder has no others.
    Unpickles only tensors. Raises DiffusersError naming the tensors that are not finite, and WeightsError naming a file
    that is missing or is not one of weights.
    """
    path = find_weights(folder, stem, variant) or (None if variant else find_weights(folder, stem, "fp16"))
    if path is None:
        found = sorted(path.name for path in folder.glob(f"{stem}*")) if folder.is_dir() else []
        wanted = f"{stem}{f'.{variant}' if variant else ''}.safetensors"
        there = f"; it has {', '.join(found)}: name one by --variant" if found else "; is the download complete?"
        raise DiffusersError(f"{folder}: its weights, {wanted}, are missing{there}")
    tensors = read_tensors(path)
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DiffusersError(
            f"{folder}: weights that are not finite: {', '.join(wrong[:3])}{more}; get the file in full precision"
        )
    return tensors


def find_weights(folder: Path, stem: str, variant: str | None) -> Path | None:
    """Return the file of a part's weights, or the index of its shards."""
    infix = f".{variant}" if variant else ""
    names = [
        name
        for ending in ("safetensors", "bin")
        for name in (
            f"{stem}{infix}.{ending}", f"{stem}.{ending}.index{infix}.json", f"{stem}{infix}.{ending}.index.json"
        )
    ]  # fmt: skip
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_fields(
    where: str, config: Mapping[str, Any], defaults: Mapping[str, Any], fixed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return a configuration with the library's defaults filled in.

    defaults: of every field that the class knows. fixed: fields for which no other value can be read.
    Raises DiffusersError naming a field that is not known, or its value.
    """
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    if unknown := sorted(given.keys() - defaults.keys()):
        known = ", ".join(sorted(defaults))
        raise DiffusersError(f"{where}.{unknown[0]}: is not known to diffusers {VERSION}; permitted: {known}")
    for name in fixed:
        if given.get(name, defaults[name]) != defaults[name]:
            raise refused(where, name, given[name], repr(defaults[name]))
    return {**defaults, **given}


def refused(where: str, name: str, value: object, permitted: str) -> DiffusersError:
    """Return the error for a field whose value cannot be read."""
    return DiffusersError(f"{where}.{name}: {value!r} cannot be read; permitted: {permitted}")


def check_blocks(
    where: str, down: Sequence[str], up: Sequence[str], known: Iterable[str], mirror: tuple[str, str]
) -> None:
    """Raise DiffusersError unless the kinds of blocks on the way down are known and those on the way up mirror them.

    mirror: what the name of a block has on the way down, and what on the way up.
    """
    permitted = list(known)
    for name in down:
        if name not in permitted:
            raise refused(where, "down_block_types", name, ", ".join(permitted))
    mirrored = [name.replace(*mirror) for name in reversed(down)]
    if list(up) != mirrored:
        raise refused(where, "up_block_types", list(up), f"{mirrored}, as down_block_types")


def one_value(where: str, name: str, value: Any) -> Any:
    """Return a value that may be given once for each level, and must then be the same. Raises DiffusersError."""
    if not isinstance(value, list | tuple):
        return value
    if not value or any(each != value[0] for each in value):
        raise refused(where, name, value, "one value for all levels")
    return value[0]
