"""The content of a compile cache as a ZIP archive: what torch saves, and the libraries that it does not.

On a CPU torch saves only the C++ of its loops, so that every process would call the compiler again.
"""

import io
import os
import re
import tempfile
import zipfile
from pathlib import Path

SAVED = "torch"  # the member that `torch.compiler.load_cache_artifacts` takes
LIBRARY = re.compile(r"[a-z0-9]{2}/[a-z0-9]{1,100}(\.main)?\.so")


def pack(saved: bytes, folder: Path) -> bytes:
    """Return a cache of what torch saved, and of the libraries in TORCHINDUCTOR_CACHE_DIR, `folder`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(SAVED), saved, zipfile.ZIP_DEFLATED)
        for path in sorted(folder.glob("??/*.so")):
            name = path.relative_to(folder).as_posix()
            if LIBRARY.fullmatch(name):
                archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def unpack(content: bytes, folder: Path) -> bytes:
    """Write the libraries of a cache into `folder`, and return what torch saved. Libraries that are there stay.

    Raises ValueError if it is no such cache.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                if LIBRARY.fullmatch(name) and not (folder / name).exists():
                    _write(folder / name, archive.read(name))
            return archive.read(SAVED)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"not a compile cache ({error})") from None


def _write(path: Path, content: bytes) -> None:
    """Write a library whole or not at all: other processes look for it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.chmod(name, 0o755)
    os.replace(name, path)
