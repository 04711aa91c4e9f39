"""softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, eq. 1), by the fastest exact means at hand."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NARROW = 8  # heads up to this width are too thin for the fused kernel on a CPU
BLOCK = 2**17  # scores of one thread's block: half a megabyte, which stays in its cache


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [R, heads, N, d], k and v [R, heads, M, d] -> [R, heads, N, d]."""
    if q.device.type == "cpu" and q.dtype == torch.float32 and q.shape[3] <= NARROW:
        return torch.as_tensor(NarrowAttention.apply(q, k, v))  # type: ignore[no-untyped-call]
    return F.scaled_dot_product_attention(q, k, v)


class NarrowAttention(torch.autograd.Function):
    """The same for narrow heads on a CPU, where the fused kernel's matrix products are too thin to be fast.

    Scores lie transposed, keys by queries, in blocks that stay in a core's cache, so that every product is wide. A row
    of ones beside the keys or values takes part in a product what would else be a pass of its own: the softmax's
    denominator, and its shift and the diagonal term in the backward pass (Dao et al. 2022, algorithm 4).
    P is rows times heads in what follows.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [R, heads, N, d], k and v [R, heads, M, d] -> [R, heads, N, d]."""
        rows = q.shape[:2]
        d, n, m = q.shape[3], q.shape[2], k.shape[2]
        q_t = columns(q) * (math.log2(math.e) / math.sqrt(d))  # [P, d, N], so that exp2 does for exp
        k1, v1 = with_ones(k), with_ones(v)  # [P, M, d + 1]
        out = q.new_empty(len(q_t), d + 1, n)  # its last row is the softmax's denominator
        shift = q.new_empty(len(q_t), 1, n)
        v1_t = v1.transpose(1, 2).contiguous()
        for pairs, queries, scores, _ in blocks(len(q_t), n, m, out):
            torch.bmm(k1[pairs, :, :d], q_t[pairs, :, queries], out=scores)
            torch.amax(scores, 1, keepdim=True, out=shift[pairs, :, queries])
            scores.sub_(shift[pairs, :, queries]).exp2_()
            torch.bmm(v1_t[pairs], scores, out=out[pairs, :, queries])
        values, total = out[:, :d], out[:, d:]
        values = values / total
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q_t, k1, v1, values, shift + total.log2())
        return torch.as_tensor(values.transpose(1, 2).reshape(*rows, n, d))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of the answer [R, heads, N, d] -> those of q, k and v."""
        q_t, k1, v1, values, log_total = ctx.saved_tensors
        rows, (pairs_total, d, n), m = gradient.shape[:2], q_t.shape, k1.shape[1]
        q1_t = torch.cat([q_t, -log_total], dim=1)  # [P, d + 1, N]
        g_t = columns(gradient)  # [P, d, N]
        g1_t = torch.cat([g_t, -(g_t * values).sum(1, keepdim=True)], dim=1)
        k_t = k1[..., :d].transpose(1, 2).contiguous()
        dq_t, dk_t, dv_t = torch.empty_like(q_t), torch.zeros_like(k_t), torch.zeros_like(k_t)
        for pairs, queries, weights, scores in blocks(pairs_total, n, m, gradient):
            torch.bmm(k1[pairs], q1_t[pairs, :, queries], out=weights).exp2_()  # the softmax, [pairs, M, queries]
            dv_t[pairs].baddbmm_(g_t[pairs, :, queries], weights.transpose(1, 2))
            torch.bmm(v1[pairs], g1_t[pairs, :, queries], out=scores).mul_(weights)
            torch.bmm(k_t[pairs], scores, out=dq_t[pairs, :, queries])
            dk_t[pairs].baddbmm_(q_t[pairs, :, queries], scores.transpose(1, 2))
        # q_t carries log2(e) / sqrt(d) already: dk needs the log2(e) taken out, dq the 1 / sqrt(d) put in.
        dq_t, dk_t = dq_t / math.sqrt(d), dk_t / math.log2(math.e)
        dq, dk, dv = (part.transpose(1, 2).reshape(*rows, -1, d) for part in (dq_t, dk_t, dv_t))
        return dq, dk, dv


def columns(x: Tensor) -> Tensor:
    """[R, heads, N, d] -> [P, d, N], contiguous."""
    return x.flatten(0, 1).transpose(1, 2).contiguous()


def with_ones(x: Tensor) -> Tensor:
    """[R, heads, M, d] -> [P, M, d + 1]: a column of ones behind."""
    return F.pad(x, (0, 1), value=1.0).flatten(0, 1)


def blocks(p: int, n: int, m: int, like: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """The scores [P, M, N] in blocks: (pairs, queries, two buffers [pairs, M, queries] that each block reuses)."""
    width = min(n, max(1, BLOCK // m))
    depth = max(1, BLOCK // (m * width)) * torch.get_num_threads()
    depth = next(
        size for size in range(min(depth, p), 0, -1) if p % size == 0
    )  # equal blocks: a row's place is no matter
    first, second = like.new_empty(2, depth, m, width)
    for i in range(0, p, depth):
        for j in range(0, n, width):
            here = (slice(None), slice(None), slice(min(width, n - j)))
            yield slice(i, i + depth), slice(j, j + width), first[here], second[here]
