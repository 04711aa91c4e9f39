"""The settings of a distillation's objective."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

DistillationMethod = Literal["shortcut", "progressive"]
SERVED = (1, 2, 4, 8)  # evaluations that a distilled release permits


@dataclass(frozen=True)
class DistillationLossConfig:
    """See `configs/recipe/distillation.yaml`, and `distillation` for the objective."""

    method: DistillationMethod = "shortcut"
    finest: Annotated[int, Field(gt=0)] = 16
    guidance_low: Annotated[float, Field(ge=0)] = 1.0
    guidance_high: Annotated[float, Field(ge=0)] = 4.0
    snr_cap: Annotated[float, Field(ge=1)] = 20.0

    def check(self) -> None:
        """Raise ValueError, naming the field, if a served number of steps or a scale is not trained."""
        if self.finest < SERVED[-1] or self.finest & (self.finest - 1):
            raise ValueError(f"finest: {self.finest} is not allowed; permitted: 8, 16, 32, ...")
        if not self.guidance_low <= 1 <= self.guidance_high:
            given = f"{self.guidance_low:g}, {self.guidance_high:g}"
            raise ValueError(f"guidance_low, guidance_high: {given} are not allowed; permitted: low <= 1 <= high, "
                             "because 1 asks for no guidance")  # fmt: skip
