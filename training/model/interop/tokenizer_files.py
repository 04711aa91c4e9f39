"""Tokenizers in the forms that others keep them in."""

from collections.abc import Mapping
from pathlib import Path

from training.errors import first_line
from training.model.conditioners.frozen_text import import_transformers
from training.model.conditioners.text_tokenizer import TOKENIZER_FILE, read_assets

VOCABULARY, MERGES = "vocab.json", "merges.txt"  # of CLIP
FORMS = (TOKENIZER_FILE, VOCABULARY, "vocab.txt")


def find_tokenizer(folder: Path) -> Path | None:
    """Return the tokenizer beside a checkpoint, or in the folder `tokenizer` there; None if there is none."""
    for place in (folder, folder / "tokenizer"):
        for name in FORMS:
            if (place / name).is_file() and (name != VOCABULARY or (place / MERGES).is_file()):
                return place / name
    return None


def read_tokenizer_files(path: Path) -> Mapping[str, bytes]:
    """Return the assets of a tokenizer: a tokenizer.json, CLIP's vocab.json with its merges.txt, BERT's vocab.txt.

    path: one of these files, or a folder that has them. Raises ValueError saying what is permitted.
    """
    if path.is_dir():
        found = find_tokenizer(path)
        if found is None:
            raise ValueError(f"{path}: has no tokenizer; permitted: {', '.join(FORMS)}, with {MERGES} for the second")
        path = found
    try:
        if path.name in (VOCABULARY, MERGES):
            tokenizer = import_transformers().CLIPTokenizer.from_pretrained(path.parent, local_files_only=True)
            return {TOKENIZER_FILE: tokenizer.backend_tokenizer.to_str().encode()}
        return read_assets(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
