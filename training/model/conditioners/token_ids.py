"""Token ids as conditions, in any vocabulary."""

from operator import index
from typing import Any

from training.model.conditioners.conditioner import Entry
from training.model.conditioners.token_transformer import TokenTransformer, TransformerConditioner


class TokenIdsConditioner(TransformerConditioner):
    """A list of token ids through a trained transformer (Rombach et al. 2022, section 4.3.1).

    Lists shorter than `length` are filled with the id `padding`; the null condition consists of padding. This is the
    released `BERTEmbedder` without its tokenizer. Raises ValueError for a padding outside the vocabulary.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        depth: int,
        heads: int = 8,
        head_width: int = 64,
        padding: int = 0,
        entry: Entry = "cross_attention",
    ) -> None:
        if not 0 <= padding < vocabulary:
            raise ValueError(f"padding: {padding} is not allowed; permitted: an integer from 0 to {vocabulary - 1}")
        super().__init__(TokenTransformer(vocabulary, length, width, depth, heads=heads, head_width=head_width), entry)
        self.padding = padding
        self.null = []

    def config(self) -> dict[str, Any]:
        """See `Conditioner.config`."""
        t = self.transformer
        return {
            "type": "token_ids", "vocabulary": t.vocabulary, "length": t.length, "padding": self.padding, **self.sizes()
        }  # fmt: skip

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one value: a list of at most `length` integers in [0, vocabulary)."""
        return {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": self.transformer.vocabulary - 1},
            "maxItems": self.transformer.length,
        }

    def read(self, value: Any) -> list[int]:
        """Fill a list of ids to `length`. Raises ValueError for too many ids, or one outside the vocabulary."""
        last, length = self.transformer.vocabulary - 1, self.transformer.length
        try:
            ids = [index(i) for i in value]
        except TypeError:
            raise ValueError(f"{value!r} is not allowed; permitted: a list of integers from 0 to {last}") from None
        if len(ids) > length:
            raise ValueError(f"{len(ids)} token ids are too many; permitted: at most {length}")
        for i in ids:
            if not 0 <= i <= last:
                raise ValueError(f"token id {i} is not allowed; permitted: an integer from 0 to {last}")
        return ids + [self.padding] * (length - len(ids))
