"""Comparison of two models."""

from typing import Any

from torch import Tensor, nn


def random_weights(module: nn.Module) -> Any:
    """Set weights that reveal every mistake: none is zero and no norm is the identity. Returns the module."""
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.1)
        elif not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight)
    return module.eval()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the L2 norm of the difference, relative to the norm of `expected`."""
    return float((found - expected).norm() / expected.norm())
