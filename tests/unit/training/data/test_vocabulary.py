"""A vocabulary is a function of the captions, and every text has pieces in it."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from training.data import vocabulary
from training.model.conditioners import build
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.text_tokenizer import TextTokenizer

CAPTIONS = [
    "a red cat",
    "A red car",
    "a blue cat.",
    "the red cat sleeps",
    "Der Fuchs läuft über die Straße",
    "日本の犬",
]


def pieces_of(assets: dict[str, bytes]) -> dict[str, int]:
    pieces: dict[str, int] = json.loads(assets["tokenizer.json"])["model"]["vocab"]
    return pieces


def words(captions: Sequence[str], size: int) -> list[str]:
    """The pieces that are whole words, in their order."""
    pieces = pieces_of(vocabulary.learn(captions, size))
    return [piece for piece in sorted(pieces, key=lambda one: pieces[one]) if len(piece) > 1 and piece[0] not in "#["]


def read(text: str, captions: Sequence[str] = CAPTIONS, size: int = 2000) -> list[str]:
    """The pieces of a text, without the special ones around it and the padding."""
    tokenizer = TextTokenizer(vocabulary.learn(captions, size), 64, "[PAD]")
    assert tokenizer.encode(text).tokens[0] == "[CLS]"
    kept = [token for token in tokenizer.encode(text).tokens if token not in ("[CLS]", "[PAD]")]
    assert kept[-1] == "[SEP]"
    return kept[:-1]


def test_words_of_the_captions_are_pieces_and_others_are_spelt() -> None:
    assert read("A red CAT sleeps.") == ["a", "red", "cat", "sleeps", "."]
    assert read("beds") == ["b", "##e", "##d", "##s"]
    assert read("cats") == ["cat", "##s"]
    assert read("") == []
    assert read("a !") == ["a", "[UNK]"]  # no caption has the sign


def test_captions_of_any_script_are_read() -> None:
    assert read("Die Straße läuft") == ["die", "straße", "lauft"]  # accents are stripped, as BERT does
    assert read("犬の日本") == ["犬", "の", "日", "本"]
    assert read("Fußball über") == ["f", "##u", "##ß", "##b", "##a", "##l", "##l", "uber"]
    emoji = ["🙂 smile", "🙂🙃"]
    assert "[UNK]" not in read("🙃 🙂", emoji)


def test_the_most_frequent_words_are_kept_where_there_is_no_room_for_all() -> None:
    captions = ["be be be bed bed deb deb debbed"]
    assert words(captions, 2000) == ["be", "bed", "deb", "debbed"]  # of equals, the first in the alphabet
    bare = 5 + 2 * len("bed")
    assert [words(captions, bare + more) for more in range(4)] == [[], ["be"], ["be", "bed"], ["be", "bed", "deb"]]
    assert words(captions, 1) == []  # characters are never left out
    for size in range(bare, bare + 9):
        assert len(pieces_of(vocabulary.learn(captions, size))) == min(size, bare + 4)


def test_pieces_are_numbered_without_gaps_and_special_ones_first() -> None:
    pieces = pieces_of(vocabulary.learn([*CAPTIONS, "[PAD] ##x [CLS]"], 2000))
    assert sorted(pieces.values()) == list(range(len(pieces)))
    assert [pieces[one] for one in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == list(range(5))


def test_the_order_of_captions_does_not_count() -> None:
    assert vocabulary.learn(CAPTIONS, 60) == vocabulary.learn(CAPTIONS[::-1], 60)
    assert vocabulary.learn(CAPTIONS, 60) != vocabulary.learn(CAPTIONS[:-1], 60)


def test_every_process_learns_the_same() -> None:
    """Whatever its seed of hashes is: a set of words must never decide."""
    program = (
        "import hashlib, sys; from training.data import vocabulary\n"
        "content = vocabulary.learn(eval(sys.argv[1]), 70)['tokenizer.json']\n"
        "print(hashlib.sha256(content).hexdigest())"
    )
    many = [f"{first}{second} {second}{first}" for first in "abcdefgh" for second in "ijklmnop"]  # all as frequent
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # another than that of this process
    done = subprocess.run(
        [sys.executable, "-c", program, repr(many)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    content = vocabulary.learn(many, 70)["tokenizer.json"]
    assert done.stdout.strip() == hashlib.sha256(content).hexdigest()


def test_a_conditioner_is_built_of_them() -> None:
    arguments = {"type": "text", "width": 8, "depth": 1, "heads": 1, "head_width": 8, "length": 8}
    made = build(arguments, vocabulary.learn(CAPTIONS, 2000))
    assert isinstance(made, TextConditioner)
    assert made.embed(["a red cat", None]).shape == (2, 8, 8)


def test_without_captions_nothing_is_learned() -> None:
    with pytest.raises(ValueError, match=r"^tokenizer: there are no captions to learn one from; give the path of a v"):
        vocabulary.learn([], 100)
