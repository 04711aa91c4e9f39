"""License files, which travel with the weights."""

import re
from pathlib import Path

NAMES = re.compile(r"(un)?licen[cs]e|copying|notice|use[_-]?policy", re.IGNORECASE)
ENDINGS = ("", ".txt", ".md", ".rst", ".pdf")
MAX_BYTES = 2**20


def is_license(name: str) -> bool:
    """Return whether a file's name is that of a license."""
    path = Path(name)
    return bool(NAMES.search(path.stem)) and path.suffix.lower() in ENDINGS


def copy_licenses(source: Path, folder: Path) -> None:
    """Copy the license files of a folder into a release's folder, which is made. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if is_license(path.name) and path.is_file() and path.stat().st_size <= MAX_BYTES:
            (folder / path.name).write_bytes(path.read_bytes())
