"""Exact attention, softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, eq. 1), by the fastest means for the device."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

WIDE = 256  # the widest heads that the fused kernels of a GPU take
LARGE = 80  # exponents of 2 between -LARGE and LARGE, and sums of such powers, neither overflow nor vanish in float32
NARROW = 8  # heads up to this width are too thin for the fused kernel on a CPU
BLOCK = 2**17  # scores in one thread's block: half a megabyte, which stays in its cache


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the attention of q [R, heads, N, d] to k and v [R, heads, M, d]: [R, heads, N, d]."""
    is_narrow = q.device.type == "cpu" and q.dtype == torch.float32 and q.shape[3] <= NARROW
    if is_narrow and not torch.compiler.is_compiling():  # its blocks depend on the threads and on the scores
        return torch.as_tensor(NarrowAttention.apply(q, k, v))  # type: ignore[no-untyped-call]  # untyped in torch
    if q.device.type == "cuda" and q.shape[3] > WIDE:
        return attend_by_products(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the attention of q [R, heads, N, d] to k and v [R, heads, M, d], with the softmax in float32."""
    scores = q @ k.transpose(2, 3)
    scores *= 1 / math.sqrt(q.shape[3])  # compiled, this is part of the softmax's pass
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


class NarrowAttention(torch.autograd.Function):
    """Attention for narrow heads on a CPU, where the fused kernel's matrix products are too thin to be fast.

    Scores are stored transposed, keys by queries, in blocks that stay in the cache, so that every product is wide. A
    row of ones appended to the keys or values makes one product compute what would need a pass of its own: the
    softmax's denominator, and in the backward pass its shift and the diagonal term (Dao et al. 2022, algorithm 4).
    The softmax is shifted by its largest score only where scores could otherwise overflow or vanish.
    In the shapes below P is rows times heads, and queries are in B blocks of W.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention of q [R, heads, N, d] to k and v [R, heads, M, d]: [R, heads, N, d]."""
        rows, (n, d), m = q.shape[:2], q.shape[2:], k.shape[2]
        depth, width = block_sizes(rows.numel(), n, m)
        q_t = split_blocks(
            q * (math.log2(math.e) / math.sqrt(d)), width
        )  # [B, P, d, W], scaled for exp2 in place of exp
        k, v_t = k.flatten(0, 1), transpose(append_ones(v))  # [P, M, d], [P, d + 1, M]
        out = q.new_empty(len(q_t), len(k), d + 1, width)  # the last row is the softmax's denominator
        large = k.abs().amax(1)[:, None] @ q_t.abs() > LARGE  # [B, P, 1, W]: no score of a query exceeds this bound
        shifted, shift = large.flatten(2).any(2).tolist(), torch.zeros_like(q_t[:, :, :1])
        scores = q.new_empty(depth, m, width)
        for p in slices(len(k), depth):
            for b in range(len(q_t)):
                torch.bmm(k[p], q_t[b, p], out=scores)
                if any(shifted[b][p]):
                    shift[b, p] = scores.amax(1, keepdim=True).where(large[b, p], 0)
                    scores.sub_(shift[b, p])
                torch.bmm(v_t[p], scores.exp2_(), out=out[b, p])
        values, total = out[:, :, :d] / out[:, :, d:], out[:, :, d:]
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q_t, k, v, values, shift + total.log2())
        return merge_blocks(values, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of q, k and v from that of the result, [R, heads, N, d]."""
        q_t, k, v, values, log_total = ctx.saved_tensors
        rows, d, (_, m, _), width = gradient.shape[:2], gradient.shape[3], k.shape, q_t.shape[3]
        depth = largest_divisor(len(k), max(1, torch.get_num_threads() * BLOCK // (m * width)))  # of two arrays
        k1, v1, k_t = F.pad(k, (0, 1), value=1.0), append_ones(v), transpose(k)
        q1_t = torch.cat([q_t, -log_total], dim=2)  # [B, P, d + 1, W]
        g_t = split_blocks(gradient, width)  # [B, P, d, W]
        g1_t = torch.cat([g_t, -(g_t * values).sum(2, keepdim=True)], dim=2)
        dq_t, dk_t, dv_t = torch.empty_like(q_t), torch.zeros_like(k_t), torch.zeros_like(k_t)
        weights, scores = gradient.new_empty(2, depth, m, width)
        for p in slices(len(k), depth):
            for b in range(len(q_t)):
                torch.bmm(k1[p], q1_t[b, p], out=weights).exp2_()  # the softmax, [depth, M, W]
                dv_t[p].baddbmm_(g_t[b, p], weights.transpose(1, 2))
                torch.bmm(v1[p], g1_t[b, p], out=scores).mul_(weights)
                torch.bmm(k_t[p], scores, out=dq_t[b, p])
                dk_t[p].baddbmm_(q_t[b, p], scores.transpose(1, 2))
        # q_t already contains log2(e) / sqrt(d): divide dk by log2(e), and dq by sqrt(d).
        dk, dv = (transpose(part).reshape(v.shape) for part in (dk_t / math.log2(math.e), dv_t))
        return merge_blocks(dq_t / math.sqrt(d), rows), dk, dv


def block_sizes(pairs: int, n: int, m: int) -> tuple[int, int]:
    """Return the numbers of pairs (row, head) and of queries in a block.

    They divide `pairs` and `n`, so that all blocks are equal and a row's result does not depend on its position.
    """
    width = largest_divisor(n, max(1, BLOCK // m))
    return largest_divisor(pairs, max(1, 2 * torch.get_num_threads() * BLOCK // (m * width))), width


def largest_divisor(n: int, most: int) -> int:
    """Return the largest divisor of n that is at most `most`."""
    return next(size for size in range(min(n, most), 0, -1) if n % size == 0)


def slices(n: int, size: int) -> Iterator[slice]:
    """Yield slices of [0, n) of at most `size`."""
    return (slice(i, i + size) for i in range(0, n, size))


def split_blocks(x: Tensor, width: int) -> Tensor:
    """Split queries into transposed blocks: [R, heads, N, d] -> [B, P, d, W], contiguous."""
    return x.flatten(0, 1).reshape(-1, x.shape[2] // width, width, x.shape[3]).permute(1, 0, 3, 2).contiguous()


def merge_blocks(x: Tensor, rows: torch.Size) -> Tensor:
    """Undo `split_blocks`: [B, P, d, W] -> [R, heads, N, d], where `rows` is (R, heads)."""
    return x.permute(1, 0, 3, 2).reshape(*rows, -1, x.shape[2])


def transpose(x: Tensor) -> Tensor:
    """Transpose each matrix: [P, M, d] -> [P, d, M], contiguous."""
    return x.transpose(1, 2).contiguous()


def append_ones(x: Tensor) -> Tensor:
    """Append a column of ones: [R, heads, M, d] -> [P, M, d + 1]."""
    return F.pad(x, (0, 1), value=1.0).flatten(0, 1)
