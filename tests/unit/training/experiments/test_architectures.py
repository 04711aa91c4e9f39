"""Numbers of an architecture that make no network are refused by field, before anything is built."""

import pytest

from training.experiments import compose
from training.experiments.schema import ExperimentError

FIRST, SECOND = "shapes_autoencoder", "shapes_class"


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        (FIRST, "channels=0", "model.channels: 0 is not allowed; permitted: at least 1"),
        (FIRST, "multipliers=[1,0]", "model.multipliers: 0 is not allowed; permitted: at least 1"),
        (FIRST, "multipliers=[1,-1]", "model.multipliers: -1 is not allowed; permitted: at least 1"),
        (FIRST, "res_blocks=-1", "model.res_blocks: -1 is not allowed; permitted: at least 0"),
        (FIRST, "latent_channels=0", "model.latent_channels: 0 is not allowed; permitted: at least 1"),
        (FIRST, "z_channels=0", "model.z_channels: 0 is not allowed; permitted: at least 1"),
        (FIRST, "dropout=1.5", "model.dropout: 1.5 is not allowed; permitted: 0 to 1"),
        (SECOND, "channels=0", "model.unet.channels: 0 is not allowed; permitted: at least 2"),
        (SECOND, "multipliers=[]", "model.unet.multipliers: none; permitted: one for each level, at least one"),
        (SECOND, "multipliers=[1,-1]", "model.unet.multipliers: -1 is not allowed; permitted: at least 1"),
        (SECOND, "res_blocks=-1", "model.unet.res_blocks: -1 is not allowed; permitted: at least 0"),
        (
            SECOND,
            "res_blocks=0",
            "model.unet.res_blocks: 0 is not allowed with middle_attention and the multipliers [1, 2];",
        ),
        (SECOND, "transformer_depth=0", "model.unet.transformer_depth: 0 is not allowed; permitted: at least 1"),
        (SECOND, "norm_groups=0", "model.unet.norm_groups: 0 is not allowed; permitted: at least 1"),
        (SECOND, "norm_eps=-1", "model.unet.norm_eps: -1.0 is not allowed; permitted: at least 0"),
        (SECOND, "dropout=2", "model.unet.dropout: 2.0 is not allowed; permitted: 0 to 1"),
        (
            SECOND,
            "frequency_shift=32",
            "model.unet.frequency_shift: 32.0 is not allowed; permitted: less than 32, half",
        ),
        (SECOND, "heads=0", "model.unet.heads: 0 is not allowed; permitted: at least 1"),
        (SECOND, "head_width=0", "model.unet.head_width: 0 is not allowed; permitted: at least 1"),
        (
            SECOND,
            "head_width=48",
            "model.unet: head_width: 48 is not allowed; permitted: divisors of 128, the channels of",
        ),
        (
            SECOND,
            "attention_factors=[2,3]",
            "model.unet: attention_factors: 3 is not allowed; permitted: powers of two",
        ),
    ],
)
def test_numbers_that_make_no_network(name: str, override: str, message: str) -> None:
    first_stage = [] if name == FIRST else ["autoencoder=/nowhere"]
    with pytest.raises(ExperimentError) as caught:
        compose.load(name, [*first_stage, f"model.{'unet.' if name == SECOND else ''}{override}"])
    assert str(caught.value).startswith(message)


def test_a_context_that_no_level_attends_to() -> None:
    with pytest.raises(ExperimentError, match=r"^model\.unet\.context_width: 128 is not allowed, because no level"):
        compose.load(
            SECOND, ["autoencoder=/nowhere", "model.unet.attention_factors=[8]", "model.unet.middle_attention=false"]
        )


@pytest.mark.parametrize(
    "overrides",
    [
        ["head_width=48", "heads=2"],  # which then has no effect
        ["head_width=48", "level_heads=[1,2]"],
        ["head_width=64", "multipliers=[1,2]", "attention_factors=[2]"],
        ["res_blocks=0", "middle_attention=false", "attention_factors=[2]"],
        ["attention_factors=[2,16]"],  # there is no such level, as in configurations that have fewer than the default
    ],
)
def test_heads_that_fit(overrides: list[str]) -> None:
    compose.load(SECOND, ["autoencoder=/nowhere", *(f"model.unet.{override}" for override in overrides)])


@pytest.mark.parametrize(
    ("name", "because"),
    [("seed", "a field of all requests"), ("image", "a field of all requests"), ("items", "a name that torch uses")],
)
def test_a_name_that_no_condition_can_have(name: str, because: str) -> None:
    condition = f"+model.conditioners.{name}={{type: class, width: 128}}"
    with pytest.raises(ExperimentError, match=rf"^model\.conditioners: {name}: is {because}; permitted: another name"):
        compose.load(SECOND, ["autoencoder=/nowhere", condition])
