"""Learns a vocabulary from the captions of a set: the most frequent words, and all characters to spell the others."""

from collections import Counter
from collections.abc import Sequence

from tokenizers import BertWordPieceTokenizer

from training.model.conditioners.text_tokenizer import TOKENIZER_FILE

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def learn(captions: Sequence[str], size: int) -> dict[str, bytes]:
    """Return a tokenizer of at most `size` pieces, unless there are more characters, as assets of a text conditioner.

    It splits text into words like BERT's and spells unknown words, so every text has pieces. It depends on the
    captions alone; the library's subword trainers break ties at random. Raises ValueError if there is no caption.
    """
    if not captions:
        raise ValueError("tokenizer: there are no captions to learn one from; give the path of a vocab.txt")
    reader = BertWordPieceTokenizer(lowercase=True)
    words = Counter(
        word
        for caption in captions
        for word, _ in reader.pre_tokenizer.pre_tokenize_str(reader.normalizer.normalize_str(caption))
    )
    characters = sorted({character for word in words for character in word})
    pieces = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
    longer = sorted((word for word in words if len(word) > 1), key=lambda word: (-words[word], word))
    pieces += longer[: max(0, size - len(pieces))]
    tokenizer = BertWordPieceTokenizer({piece: number for number, piece in enumerate(pieces)}, lowercase=True)
    return {TOKENIZER_FILE: tokenizer.to_str().encode()}
