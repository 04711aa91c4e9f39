"""Multi-head attention of tokens: to each other, and to a context."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.attention import attend


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to each other (Vaswani et al. 2017, section 3.2).

    Raises ValueError unless `heads` divides the width.
    """

    def __init__(self, width: int, *, heads: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.heads = check_heads(heads, width)
        self.query = nn.Linear(width, width, bias=qkv_bias)
        self.key = nn.Linear(width, width, bias=qkv_bias)
        self.value = nn.Linear(width, width, bias=qkv_bias)
        self.joined: nn.Linear | None = None  # the three above, see `join`
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: [R, N, width] -> [R, N, width]."""
        qkv = F.linear(x, *self._weights()) if self.joined is None else self.joined(x)  # one product instead of three
        q, k, v = (split_heads(part, self.heads) for part in qkv.chunk(3, dim=2))
        return torch.as_tensor(self.out(merge_heads(attend(q, k, v))))

    def join(self) -> None:
        """Replace query, key and value by one layer with the same answers. The module can then only be evaluated."""
        if self.joined is None:
            weight, bias = self._weights()
            with torch.device("meta"):
                self.joined = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            self.joined.weight = nn.Parameter(weight, requires_grad=False)
            if bias is not None:
                self.joined.bias = nn.Parameter(bias, requires_grad=False)
            del self.query, self.key, self.value

    def _weights(self) -> tuple[Tensor, Tensor | None]:
        parts = (self.query, self.key, self.value)
        bias = None if self.query.bias is None else torch.cat([part.bias for part in parts])
        return torch.cat([part.weight for part in parts]), bias


def join_projections(model: nn.Module) -> None:
    """Join the query, key and value of every self-attention of a model, which is then only evaluated."""
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.join()


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to a context (Rombach et al. 2022, section 3.3).

    Keys and values depend on the context alone. The U-Net therefore computes those of all its layers in one product,
    once per sampling run; those of this layer stand at `index`.
    """

    def __init__(self, width: int, *, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads, self.width = check_heads(heads, width), width
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(context_width, width, bias=False)
        self.value = nn.Linear(context_width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.index = 0

    def forward(self, x: Tensor, keys_values: Sequence[Tensor]) -> Tensor:
        """Attend: x [R, N, width], each layer's keys and values [R, M, 2 width] -> [R, N, width]."""
        k, v = keys_values[self.index].chunk(2, dim=2)
        if v.shape[1] == 1 and not torch.is_grad_enabled():  # the softmax over one key is 1, whatever the query
            return torch.as_tensor(self.out(v[:, 0])[:, None]).expand_as(x)
        q, k, v = (split_heads(part, self.heads) for part in (self.query(x), k, v))
        return torch.as_tensor(self.out(merge_heads(attend(q, k, v))))


def check_heads(heads: int, width: int) -> int:
    """Return `heads`. Raises ValueError unless it divides the width."""
    if heads < 1 or width % heads:
        raise ValueError(f"heads: {heads} does not divide the width {width}")
    return heads


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split the width into heads: [R, N, heads d] -> [R, heads, N, d]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Undo `split_heads`: [R, heads, N, d] -> [R, N, heads d]."""
    return x.transpose(1, 2).flatten(2)
