"""OpenCLIP's vocabulary file, whose numbers are those that CLIP published."""

import gzip
from pathlib import Path

import pytest

from training.model.conditioners.text_tokenizer import TOKENIZER_FILE
from training.model.interop.tokenizer_files import OPEN_CLIP, find_tokenizer, read_tokenizer_files

FIRST_MERGES = ["i n", "t h", "a n", "r e", "a r", "e r", "th e</w>", "in g</w>"]


def test_open_clips_vocabulary_gives_the_published_numbers(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    lines = ['"bpe_simple_vocab_16e6.txt#version: 0.2', *FIRST_MERGES]
    (tmp_path / OPEN_CLIP).write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
    assert find_tokenizer(tmp_path) == tmp_path / OPEN_CLIP
    tokenizer = Tokenizer.from_str(read_tokenizer_files(tmp_path)[TOKENIZER_FILE].decode())
    start, end = 512 + len(FIRST_MERGES), 513 + len(FIRST_MERGES)  # 49406 and 49407 with all merges
    assert tokenizer.encode("The a!").ids == [start, 518, 320, 256, end]
    assert tokenizer.token_to_id("in") == 512
    assert tokenizer.encode("\u00e9").ids[1:-1] == [127, 358]  # two bytes


def test_a_file_that_is_not_gzipped_is_named(tmp_path: Path) -> None:
    (tmp_path / OPEN_CLIP).write_text("<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"16e6\.txt\.gz: not a gzipped vocabulary .*download it again"):
        read_tokenizer_files(tmp_path / OPEN_CLIP)
