"""What `releases show` prints of an evaluation can be read without knowing Python."""

import pytest

from services.cli.release_fields import describe_metric


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.5, "0.5000"),
        (16, "16"),
        ("dpm_solver_2m", "dpm_solver_2m"),
        ({"one": 0.25, "images": 16, "solver": "euler"}, "one 0.2500, images 16, solver euler"),
        (
            {"distances": [0.125, 0.5], "closest_held_out_image": 0.25},
            "distances 2 values, closest_held_out_image 0.2500",
        ),
    ],
)
def test_a_metric_is_described_in_words(value: object, words: str) -> None:
    assert describe_metric(value) == words
