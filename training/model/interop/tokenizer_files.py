"""Tokenizers in the forms that others keep them in."""

import gzip
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from training.errors import first_line
from training.model.conditioners.frozen_text import import_transformers
from training.model.conditioners.text_tokenizer import TOKENIZER_FILE, read_assets

VOCABULARY, MERGES = "vocab.json", "merges.txt"  # of CLIP
OPEN_CLIP = "bpe_simple_vocab_16e6.txt.gz"  # of CLIP too, as the code of CLIP and of OpenCLIP reads it
FORMS = (TOKENIZER_FILE, VOCABULARY, "vocab.txt", OPEN_CLIP)
MERGE_COUNT = 49152 - 256 - 2  # of the file's merges, which has more


def find_tokenizer(folder: Path) -> Path | None:
    """Return the tokenizer beside a checkpoint, or in the folder `tokenizer` there; None if there is none."""
    for place in (folder, folder / "tokenizer"):
        for name in FORMS:
            if (place / name).is_file() and (name != VOCABULARY or (place / MERGES).is_file()):
                return place / name
    return None


def read_tokenizer_files(path: Path) -> Mapping[str, bytes]:
    """Return the assets of a tokenizer.

    It is a tokenizer.json, CLIP's vocab.json with its merges.txt, BERT's vocab.txt or OpenCLIP's bpe_simple_vocab.

    path: one of these files, or a folder that has them. Raises ValueError saying what is permitted.
    """
    if path.is_dir():
        found = find_tokenizer(path)
        if found is None:
            raise ValueError(f"{path}: has no tokenizer; permitted: {', '.join(FORMS)}, with {MERGES} for the second")
        path = found
    try:
        if path.name in (VOCABULARY, MERGES):
            return read_clip(path.parent)
        if path.name == OPEN_CLIP:
            with tempfile.TemporaryDirectory() as folder:
                write_clip(read_merges(path), Path(folder))
                return read_clip(Path(folder))
        return read_assets(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None


def read_clip(folder: Path) -> Mapping[str, bytes]:
    """Return the assets of CLIP's vocab.json and merges.txt."""
    tokenizer = import_transformers().CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return {TOKENIZER_FILE: tokenizer.backend_tokenizer.to_str().encode()}


def read_merges(path: Path) -> list[str]:
    """Return the merges of OpenCLIP's file that the vocabulary has. Raises ValueError unless it is gzipped text."""
    try:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a gzipped vocabulary ({first_line(error)}); download it again") from None
    return [line for line in lines[1 : 1 + MERGE_COUNT] if line]


def write_clip(merges: list[str], folder: Path) -> None:
    """Write vocab.json and merges.txt: all bytes, all bytes that end a word, the merges, start and end."""
    from tokenizers.pre_tokenizers import ByteLevel

    characters = sorted(ByteLevel.alphabet())
    pieces = [*characters, *(f"{one}</w>" for one in characters), *(merge.replace(" ", "") for merge in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    (folder / VOCABULARY).write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / MERGES).write_text("\n".join(["#version: 0.2", *merges]) + "\n")
