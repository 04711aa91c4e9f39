"""The files of a folder of diffusers or transformers: a JSON configuration, and weights in one file or several."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from training.errors import DarkroomError
from training.model.interop.compvis.files import read_state
from training.model.interop.huggingface.component import VERSION

ENDINGS = ("safetensors", "bin")  # in the order of preference


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
    Unpickles only tensors. Raises DiffusersError naming the file that is missing, and the tensors that are not finite.
    """
    files = list(weight_files(folder, stem, variant))
    if not files and variant is None:
        files = list(weight_files(folder, stem, "fp16"))
    if not files:
        found = sorted(path.name for path in folder.glob(f"{stem}*")) if folder.is_dir() else []
        wanted = f"{stem}{f'.{variant}' if variant else ''}.safetensors"
        there = f"; it has {', '.join(found)}: name one by --variant" if found else ""
        raise DiffusersError(f"{folder}: its weights, {wanted}, are missing{there}")
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors |= read_state(path)
    if wrong := [
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()
    ]:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DiffusersError(
            f"{folder}: weights that are not finite: {', '.join(wrong[:3])}{more}; get the file in full precision"
        )
    return tensors


def weight_files(folder: Path, stem: str, variant: str | None) -> Iterator[Path]:
    """Yield the files of a part's weights: none if there are none. Raises DiffusersError if a shard is missing."""
    infix = f".{variant}" if variant else ""
    for ending in ENDINGS:
        single = folder / f"{stem}{infix}.{ending}"
        if single.is_file():
            yield single
            return
        for index in (f"{stem}.{ending}.index{infix}.json", f"{stem}{infix}.{ending}.index.json"):
            if (folder / index).is_file():
                yield from shards(folder / index)
                return


def shards(index: Path) -> Iterator[Path]:
    """Yield the files that an index names. Raises DiffusersError for a missing one, and for one in another folder."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise DiffusersError(f"{index}: weight_map is missing; is the download complete?")
    for name in sorted(set(map(str, names.values()))):
        if Path(name).name != name:
            raise DiffusersError(f"{index}: {name!r} is not allowed; permitted: names of files beside it")
        if not (index.parent / name).is_file():
            raise DiffusersError(f"{index.parent / name}: missing, although {index.name} names it; download it too")
        yield index.parent / name


def read_fields(
    where: str, config: Mapping[str, Any], defaults: Mapping[str, Any], fixed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return a configuration with the library's defaults filled in.

    defaults: of every field that the class knows. fixed: fields for which no other value can be read.
    Raises DiffusersError naming a field that is not known, or its value.
    """
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    if unknown := sorted(given.keys() - defaults.keys()):
        raise DiffusersError(f"{where}.{unknown[0]}: is not known to diffusers {VERSION}, nor to Darkroom")
    for name in fixed:
        if given.get(name, defaults[name]) != defaults[name]:
            raise refused(where, name, given[name], repr(defaults[name]))
    return {**defaults, **given}


def refused(where: str, name: str, value: object, permitted: str) -> DiffusersError:
    """Return the error for a field whose value cannot be read."""
    return DiffusersError(f"{where}.{name}: {value!r} cannot be read; permitted: {permitted}")


def one_value(where: str, name: str, value: Any) -> Any:
    """Return a value that may be given once for each level, and must then be the same. Raises DiffusersError."""
    if not isinstance(value, list | tuple):
        return value
    if not value or any(each != value[0] for each in value):
        raise refused(where, name, value, "one value for all levels")
    return value[0]
