"""Reading the tensors of a file that others wrote. Its content decides what it is, not the ending of its name."""

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file
from torch import Tensor

from training.errors import DarkroomError, first_line
from training.model.interop.unpickling import CodeError, unpickle

Format = Literal["zip", "pickle", "safetensors"]
HEAD_BYTES = 512
MAX_HEADER_BYTES = 100 * 2**20  # of a safetensors file
INDEX = re.compile(r".+\.index(\.\w+)?\.json")  # the list of a model's parts, or of those of a variant
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.\w+)")
INSIDE = ("state_dict", "model_state_dict", "model", "module")  # where a trainer's checkpoint has its weights
WRAPPERS = ("module.", "_forward_module.")  # of DistributedDataParallel and Lightning Fabric, before every key
COMPILED = "_orig_mod."  # of torch.compile, anywhere in a key
# Beginnings of other formats, and what the person who has such a file does about it
OTHERS = {
    b"GGUF": "quantised weights in the GGUF format; give the original weights",
    b"\x89HDF": "a file of Keras or TensorFlow (HDF5); give PyTorch weights",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a rar archive; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"age-encryption.org": "encrypted by age; decrypt it first",
    b"Salted__": "encrypted by openssl; decrypt it first",
    b"-----BEGIN PGP MESSAGE": "encrypted by PGP; decrypt it first",
    b"-----BEGIN AGE ENCRYPTED FILE": "encrypted by age; decrypt it first",
}


class WeightsError(DarkroomError):
    """A file of weights that cannot be read; the message names it, says what it is and what to do."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name: of safetensors, or of a file of `torch.save`, whose code never runs.

    Other objects than weights are ignored, and prefixes that wrappers of a module add are taken off. For one part
    of a model in several files, or their index, all parts are read. Raises WeightsError.
    """
    parts = find_parts(path)
    state: dict[str, Tensor] = {}
    for part in parts:
        state |= select_state(part, read_content(part))
    return unwrap(state)


def find_parts(path: Path) -> list[Path]:
    """Return the files that a model is in. Raises WeightsError naming those that are missing."""
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; give the file of the weights in it")
    if INDEX.fullmatch(path.name):
        try:
            names = {Path(name).name for name in json.loads(path.read_text())["weight_map"].values()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise WeightsError(f"{path}: is no index of weights ({first_line(error)})") from None
        parts = [path.parent / name for name in sorted(names)]
    elif part := PART.fullmatch(path.name):
        numbers = range(1, int(part["count"]) + 1)
        parts = [path.with_name(f"{part['stem']}-{i:05d}-of-{part['count']}{part['ending']}") for i in numbers]
    else:
        return [path]
    if missing := [file.name for file in parts if not file.is_file()]:
        raise WeightsError(
            f"{path}: parts of the model are missing: {', '.join(missing)}; fetch all {len(parts)} files"
        )
    return parts


def read_content(path: Path) -> Any:
    """Return the content of one file. Raises WeightsError."""
    try:
        kind = identify(path)
        return load_file(path) if kind == "safetensors" else unpickle(path, mapped=kind == "zip")
    except WeightsError:
        raise
    except CodeError as error:
        raise WeightsError(
            f"{path}: refused, it contains more than tensors: it names {error}, which is code. Do not trust its source"
        ) from None
    except Exception as error:  # the bytes of another format can make the unpickler raise anything
        reason = "no such file" if isinstance(error, FileNotFoundError) else first_line(error) or type(error).__name__
        raise WeightsError(f"{path}: cannot be read, it is missing or damaged ({reason})") from None


def identify(path: Path) -> Format:
    """Return the format of a file. Raises WeightsError for what is not a file of weights, and OSError."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise WeightsError(f"{path}: is empty; fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: is a pointer of git-lfs, not the weights; fetch them with: git lfs pull")
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise WeightsError(
            f"{path}: is a web page, not weights; its site may want a login or a consent before the download"
        )
    for beginning, what in OTHERS.items():
        if head.startswith(beginning):
            raise WeightsError(f"{path}: is {what}")
    if head[257:262] == b"ustar":
        raise WeightsError(f"{path}: is a tar archive; unpack it first")
    if head.startswith(b"PK"):
        check_zip(path)
        return "zip"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= MAX_HEADER_BYTES:
        check_safetensors(path, length)
        return "safetensors"
    if head.startswith(b"\x80"):
        return "pickle"
    if head.isascii() and b"\0" not in head:
        raise WeightsError(f"{path}: is text, not weights; it begins with {head[:40].decode()!r}")
    raise WeightsError(
        f"{path}: cannot be read, it is missing or damaged (its beginning is of no known format; is it encrypted?)"
    )


def check_zip(path: Path) -> None:
    """Raise WeightsError unless a zip archive is a whole file of `torch.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile:
        raise cut_off(path, "it ends too early") from None
    if any(member.flag_bits & 1 for member in members):
        raise WeightsError(f"{path}: is encrypted; unpack it with its password, and give the file in it")
    names = [member.filename for member in members]
    if any(name.endswith("constants.pkl") for name in names):
        raise WeightsError(f"{path}: is a program of TorchScript, which would have to run; give the weights instead")
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        shown = ", ".join(names[:3])
        raise WeightsError(f"{path}: is a zip archive of other files ({shown}); unpack it, and give the file in it")


def check_safetensors(path: Path, length: int) -> None:
    """Raise WeightsError unless a safetensors file with a header of `length` bytes has all of its data."""
    with path.open("rb") as file:
        file.seek(8)
        header = file.read(length)
    try:
        tensors = json.loads(header)
        ends = [one["data_offsets"][1] for name, one in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise cut_off(path, "its header is incomplete") from None
    wanted, found = 8 + length + max(ends, default=0), path.stat().st_size
    if found < wanted:
        raise cut_off(path, f"it has {found:,} of {wanted:,} bytes")


def cut_off(path: Path, reason: str) -> WeightsError:
    """Return the error for a file whose end is missing."""
    return WeightsError(f"{path}: cannot be read, it is missing or damaged ({reason}; fetch it again)")


def select_state(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the tensors of a file's content, wherever its trainer put them. Raises WeightsError if it has none."""
    candidates = [content.get(name) for name in INSIDE] if isinstance(content, Mapping) else []
    for candidate in (*candidates, content):
        if isinstance(candidate, Mapping):
            state = {name: value for name, value in candidate.items() if isinstance(value, Tensor)}
            if state:
                return state
    raise WeightsError(f"{path}: has no state_dict of tensors")


def unwrap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefixes of DistributedDataParallel, Fabric and torch.compile."""
    state = {key.replace(COMPILED, ""): tensor for key, tensor in state.items()}
    for prefix in WRAPPERS:
        while all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state
