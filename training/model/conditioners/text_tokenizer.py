"""Tokenizers, which turn text into token ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import BertWordPieceTokenizer, Encoding, Tokenizer

TOKENIZER_FILE = "tokenizer.json"  # its name among the assets of a conditioner
MAX_CHARACTERS = 2000  # of a request's text, far more than any encoder here reads


class TextTokenizer:
    """A tokenizer that gives every text `length` ids: it truncates, or appends the token `padding`.

    Special tokens such as BERT's [CLS] and [SEP] count and are never truncated.
    assets: a tokenizer.json of the `tokenizers` library. Raises ValueError naming the invalid argument.
    """

    def __init__(self, assets: Mapping[str, bytes] | None, length: int, padding: str) -> None:
        if not assets or TOKENIZER_FILE not in assets:
            raise ValueError(f"assets: {TOKENIZER_FILE} is missing")
        self.content = assets[TOKENIZER_FILE]
        self.length = length
        self.tokenizer = load(self.content)
        padding_id = self.tokenizer.token_to_id(padding)
        if padding_id is None:
            raise ValueError(f"padding: {padding!r} is not a token of {TOKENIZER_FILE}")
        least = 1 + self.tokenizer.num_special_tokens_to_add(False)
        if length < least:
            raise ValueError(f"length: {length} is not allowed; permitted: at least {least} with this tokenizer")
        self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(length=length, pad_id=padding_id, pad_token=padding)
        self.vocabulary = 1 + max(self.tokenizer.get_vocab().values())

    def encode(self, text: object) -> Encoding:
        """Return the `ids` of a request's text and its `attention_mask`, 0 for padding, else 1. Raises ValueError."""
        if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
            what = f"a text of {len(text)} characters" if isinstance(text, str) else f"{type(text).__name__} {text!r}"
            raise ValueError(f"{what} is not allowed; permitted: a string of at most {MAX_CHARACTERS} characters")
        return self.tokenizer.encode(text)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of a request's text."""
        return {
            "type": "string",
            "maxLength": MAX_CHARACTERS,
            "description": f"Its first {self.length} tokens count, special ones among them; the rest is cut off.",
        }

    def assets(self) -> dict[str, bytes]:
        """Return the tokenizer.json, unchanged."""
        return {TOKENIZER_FILE: self.content}


def read_assets(path: Path) -> dict[str, bytes]:
    """Read the assets of a tokenizer from a tokenizer.json, or from the vocab.txt of a lower-casing BERT.

    A vocab.txt has one word piece per line, in the order of their ids. Raises ValueError if the file is neither.
    """
    if path.suffix == ".json":
        content = path.read_bytes()
        load(content)
        return {TOKENIZER_FILE: content}
    pieces = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    missing = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} - set(pieces)
    if missing:
        raise ValueError(f"{path}: not a vocabulary of BERT; missing: {', '.join(sorted(missing))}")
    tokenizer = BertWordPieceTokenizer({piece: i for i, piece in enumerate(pieces)}, lowercase=True)
    return {TOKENIZER_FILE: tokenizer.to_str().encode()}


def load(content: bytes) -> Tokenizer:
    """Parse a tokenizer.json. Raises ValueError if it cannot be read."""
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # the library has no narrower class
        raise ValueError(f"{TOKENIZER_FILE}: cannot be read ({' '.join(str(error).split())})") from None
