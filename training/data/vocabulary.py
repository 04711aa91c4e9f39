"""A vocabulary learned from the captions of a set: their most frequent words, and every character for the others."""

from collections import Counter
from collections.abc import Sequence

from tokenizers import BertWordPieceTokenizer

from training.model.conditioners.text_tokenizer import TOKENIZER_FILE

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def learned(captions: Sequence[str], size: int) -> dict[str, bytes]:
    """The tokenizer, of at most `size` pieces unless there are more characters, as the assets of a text conditioner.

    It reads words as BERT's does, and spells those that it does not know, so that every text has pieces. A function
    of the captions alone, which the subword trainers of the library are not: they break ties at random.
    Raises ValueError without a caption.
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
