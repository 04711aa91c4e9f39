"""How two models are compared."""

from typing import Any

from torch import Tensor, nn


def random_weights(module: nn.Module) -> Any:
    """Weights that show every mistake: nothing is zero, no norm is the identity."""
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
    return float((found - expected).norm() / expected.norm())
