"""A transformer over token ids, the trained encoder of the text and layout models.

Numerics follow the released models' `BERTEmbedder`, an encoder of x-transformers (github.com/lucidrains), so that
their checkpoints can be loaded.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.attention import attend
from training.model.attention_layers import merge_heads, split_heads
from training.model.conditioners.conditioner import Entry, TokenConditioner
from training.model.trajectory_table import transfer


class TokenTransformer(nn.Module):
    """Token and position embeddings, pre-norm blocks and a final layer norm (Rombach et al. 2022, section 4.3.1).

    vocabulary: number of token ids. length: largest number of tokens in a sequence. depth: number of blocks.
    No token is masked, not even padding: the released models were trained this way.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int, depth: int, *, heads: int = 8, head_width: int = 64
    ) -> None:
        super().__init__()
        self.vocabulary, self.length, self.width, self.depth = vocabulary, length, width, depth
        self.heads, self.head_width = heads, head_width
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(length, width)
        for embedding in (self.token_embedding, self.position_embedding):
            nn.init.normal_(embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads=heads, head_width=head_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode token ids [R, M], M <= length: [R, M, width]."""
        x = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return torch.as_tensor(self.norm(x))


class EncoderBlock(nn.Module):
    """Self-attention and a feed-forward layer with the erf GELU, each after a norm and with a residual."""

    def __init__(self, width: int, *, heads: int, head_width: int, expansion: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = TokenAttention(width, heads=heads, head_width=head_width)
        self.norm2 = nn.LayerNorm(width)
        self.inner = nn.Linear(width, expansion * width)
        self.outer = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens: [R, M, width] -> [R, M, width]."""
        x = x + self.attention(self.norm1(x))
        return torch.as_tensor(x + self.outer(F.gelu(self.inner(self.norm2(x)))))


class TokenAttention(nn.Module):
    """Multi-head self-attention; heads * head_width may differ from the width of the tokens."""

    def __init__(self, width: int, *, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key = nn.Linear(width, heads * head_width, bias=False)
        self.value = nn.Linear(width, heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: [R, M, width] -> [R, M, width]."""
        q, k, v = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        return torch.as_tensor(self.out(merge_heads(attend(q, k, v))))


class TransformerConditioner(TokenConditioner):
    """A conditioner that turns each value into a fixed number of token ids, which a trained transformer encodes.

    It encodes every row, even equal ones: a number of rows that depended on the batch would change an image's last
    digits.
    """

    null: object  # the value of the null condition

    def __init__(self, transformer: TokenTransformer, entry: Entry) -> None:
        super().__init__(entry)
        self.transformer = transformer

    @abstractmethod
    def read(self, value: Any) -> list[int]:
        """Return the `length` token ids of a value. Raises ValueError."""

    def embed(self, values: Sequence[Any]) -> Tensor:
        """Embed R values, None for the null condition, as tokens [R, length, width]. Raises ValueError."""
        ids = [self.read(self.null if value is None else value) for value in values]
        return self.forward(transfer(torch.tensor(ids, dtype=torch.int64), self.device))

    def forward(self, ids: Tensor) -> Tensor:
        """Encode token ids [R, M], M <= length, as tokens [R, M, width]."""
        return torch.as_tensor(self.transformer(ids))

    def sizes(self) -> dict[str, Any]:
        """Return the part of the configuration that all such conditioners share."""
        t = self.transformer
        return {"width": t.width, "depth": t.depth, "heads": t.heads, "head_width": t.head_width, "entry": self.entry}
