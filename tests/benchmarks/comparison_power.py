"""How often `darkroom evaluate --against` tells two models apart: equal ones, and one of which a share is spoilt.

    python -m tests.benchmarks.comparison_power [PAIRS]

The features of an image are those of its request and seed, which both models share, and a part of each model's own. A
spoilt image has the features of an image of another request (it does not obey), or lies outside of the real ones (it is
broken). Prints the share of pairs that are found to differ, with 1,000 images, 64 features and 3,000 real images.
"""

import sys

import torch
from torch import Tensor

from training.metrics import paired

IMAGES, REAL, FEATURES, CLASSES = 1000, 3000, 64, 10
OWN = 0.3  # of the deviation within a class, in each model's own part
SPOILT = {"equal models": (0.0, 0.0), "5 % of other classes": (0.05, 0.0), "5 % broken": (0.0, 0.05)}


def draw(seed: int, other_class: float, broken: float) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return the features of two models and of real images, and the classes requested and shown."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    centres = 2 * normal(CLASSES, FEATURES) / FEATURES**0.5 * 4
    requested, shown = torch.arange(IMAGES) % CLASSES, torch.arange(REAL) % CLASSES
    real = centres[shown] + normal(REAL, FEATURES)
    common = normal(IMAGES, FEATURES)
    models = [centres[requested] + 0.9 * common + OWN * normal(IMAGES, FEATURES) for _ in range(2)]
    chance = torch.rand(IMAGES, generator=generator)
    is_other, is_broken = chance < other_class, chance > 1 - broken
    models[0][is_other] += (centres[(requested + 1) % CLASSES] - centres[requested])[is_other]
    models[0][is_broken] += 1.0  # in every direction at once, as no real image
    return models[0], models[1], real, (requested, shown)


def main() -> None:
    """Print a row for each kind of pair."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for name, spoilt in SPOILT.items():
        verdicts, by_figure = [], dict[str, int]()
        for seed in range(pairs):
            first, second, real, conditions = draw(seed, *spoilt)
            found = paired.compare(first, second, real, conditions)
            verdicts.append(paired.summarise(found))
            for one in found:
                by_figure[one.name] = by_figure.get(one.name, 0) + (one.verdict != "cannot tell")
        told = pairs - verdicts.count("cannot tell")
        figures = ", ".join(f"{figure.replace('_', ' ')} {count}" for figure, count in by_figure.items())
        print(
            f"{name:24} {told} of {pairs} told apart; worse {verdicts.count('worse')}; by figure: {figures}", flush=True
        )


if __name__ == "__main__":
    main()
