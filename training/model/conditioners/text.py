"""Text conditions by a transformer that is trained with the U-Net."""

from collections.abc import Mapping
from typing import Any

from training.model.conditioners.conditioner import Entry
from training.model.conditioners.text_tokenizer import TextTokenizer
from training.model.conditioners.token_transformer import TokenTransformer, TransformerConditioner


class TextConditioner(TransformerConditioner):
    """Text in BERT's word pieces through a trained transformer (Rombach et al. 2022, section 4.3.1).

    As in the released text-to-image models, a text becomes [CLS], its pieces, [SEP], and [PAD] up to `length`, and no
    token is masked. Longer texts are truncated. The null condition is the empty text.
    assets: the tokenizer.json, for example from `text_tokenizer.read_assets`; it determines the transformer's
        vocabulary. Raises ValueError naming the invalid argument.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        length: int = 77,
        heads: int = 8,
        head_width: int = 64,
        entry: Entry = "cross_attention",
        assets: Mapping[str, bytes] | None = None,
    ) -> None:
        tokenizer = TextTokenizer(assets, length, padding="[PAD]")
        super().__init__(
            TokenTransformer(tokenizer.vocabulary, length, width, depth, heads=heads, head_width=head_width), entry
        )
        self.tokenizer = tokenizer
        self.null = ""

    def config(self) -> dict[str, Any]:
        """See `Conditioner.config`."""
        return {"type": "text", "length": self.transformer.length, **self.sizes()}

    def assets(self) -> dict[str, bytes]:
        """See `Conditioner.assets`."""
        return self.tokenizer.assets()

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one value."""
        return self.tokenizer.schema()

    def read(self, value: Any) -> list[int]:
        """Return the `length` token ids of a text. Raises ValueError."""
        return list(self.tokenizer.encode(value).ids)
