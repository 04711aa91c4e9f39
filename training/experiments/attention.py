"""Checks that a U-Net's attention is where and as wide as its experiment says."""

from training.model.unet import UNetConfig


def check_heads(unet: UNetConfig) -> None:
    """Raise ValueError for heads of another width than `head_width`, and for factors that no level has.

    A release may have both: the authors' code rounds the number of heads down, and ignores such factors.
    """
    if unknown := [factor for factor in unet.attention_factors if factor < 1 or factor & (factor - 1)]:
        raise ValueError(
            f"attention_factors: {unknown[0]} is not allowed; permitted: powers of two, as levels have them"
        )
    if unet.heads is not None or unet.level_heads is not None or unet.head_width is None:
        return
    levels = {level for level in range(len(unet.multipliers)) if 2**level in unet.attention_factors}
    if unet.middle_attention:
        levels.add(len(unet.multipliers) - 1)
    for level in sorted(levels):
        width = unet.channels * unet.multipliers[level]
        if width % unet.head_width:
            raise ValueError(f"head_width: {unet.head_width} is not allowed; permitted: divisors of {width}, the "
                             f"channels of level {level}")  # fmt: skip
