import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.model import attention
from training.model.attention import NarrowAttention, attend, attend_by_products
from training.model.attention_layers import CrossAttention


def inputs(n: int, m: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    packed = torch.randn(2, max(n, m), 3 * 4 * d, generator=generator, dtype=dtype)
    q, k, v = (part.unflatten(2, (4, d)).transpose(1, 2) for part in packed.chunk(3, dim=2))  # strided, as in the U-Net
    return (q[:, :, :n].requires_grad_(), k[:, :, :m].requires_grad_(), v[:, :, :m].requires_grad_())


@pytest.mark.parametrize(("n", "m", "d"), [(1024, 1024, 8), (300, 77, 8), (5, 1, 3), (7, 2000, 1)])
def test_attention_of_narrow_heads_equals_the_fused_kernel(n: int, m: int, d: int) -> None:
    q, k, v = inputs(n, m, d)
    expected = F.scaled_dot_product_attention(q, k, v)
    found = attend(q, k, v)
    assert "Narrow" in type(found.grad_fn).__name__
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=3e-6)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    pairs = zip(
        torch.autograd.grad(found, (q, k, v), upstream), torch.autograd.grad(expected, (q, k, v), upstream), strict=True
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)


def test_the_gradient_of_narrow_heads_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 12)  # several blocks, the last ones partial
    assert torch.autograd.gradcheck(NarrowAttention.apply, inputs(5, 7, 2, torch.float64))


def test_large_scores_neither_overflow_nor_vanish() -> None:
    q, k, v = (part.detach() for part in inputs(64, 64, 8))
    found = attend(100 * q, 100 * k, v)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(100 * q, 100 * k, v), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [1, 100])  # with 100, most scores of the first row need a shift and none of the other
def test_a_row_does_not_depend_on_the_others(scale: float) -> None:
    q, k, v = (part.detach() for part in inputs(64, 64, 8))
    q = q * torch.tensor([scale, 1.0]).view(2, 1, 1, 1)
    assert torch.equal(attend(q, k, v)[1], attend(q.flip(0), k.flip(0), v.flip(0))[0])
    same = attend(*(part[1:].expand(2, -1, -1, -1) for part in (q, k, v)))
    assert torch.equal(attend(q, k, v)[1], same[0])


def test_the_gradient_of_large_scores_is_that_of_the_fused_kernel() -> None:
    q, k, v = inputs(64, 48, 8)
    scale = torch.tensor([30.0, 1.0]).view(2, 1, 1, 1)
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(attend(scale * q, k, v), (q, k, v), upstream)
    expected = torch.autograd.grad(F.scaled_dot_product_attention(scale * q, k, v), (q, k, v), upstream)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_wide_heads_use_the_fused_kernel() -> None:
    q, k, v = inputs(16, 16, 16)
    assert "ScaledDotProduct" in type(attend(q, k, v).grad_fn).__name__


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_two_products_are_the_attention_of_heads_that_no_fused_kernel_takes(
    dtype: torch.dtype, tolerance: float
) -> None:
    q, k, v = (part.detach() for part in inputs(64, 48, 384))
    found = attend_by_products(*(part.to(dtype) for part in (q, k, v)))
    assert found.dtype == dtype
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


def test_two_products_have_the_gradients_of_attention_also_under_autocast() -> None:
    q, k, v = inputs(64, 48, 384)
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), upstream)
    exact = torch.autograd.grad(attend_by_products(q, k, v), (q, k, v), upstream)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = torch.autograd.grad(attend_by_products(q, k, v).float(), (q, k, v), upstream)
    for one, other, right in zip(exact, rounded, expected, strict=True):
        torch.testing.assert_close(one, right, rtol=1e-4, atol=1e-5)
        assert (other - right).norm() < 0.02 * right.norm()


def test_one_key_is_attended_without_its_query() -> None:
    """Class conditions are one token, and the softmax over one key is 1."""
    torch.manual_seed(0)
    layer = CrossAttention(64, heads=2, context_width=16)
    x, keys_values = torch.randn(3, 32, 64), torch.randn(3, 1, 128)
    expected = layer(x, [keys_values])
    with torch.no_grad():
        found = layer(torch.full_like(x, float("nan")), [keys_values])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_narrow_heads_are_compiled_as_one_graph() -> None:
    q, k, v = torch.randn(3, 2, 2, 16, 8).unbind()
    with torch.no_grad():
        compiled = torch.compile(attend, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(q, k, v), attend(q, k, v))
