"""The card of a release names what a reader needs."""

from training.data.image_set import Description
from training.experiments import compose
from training.experiments.schema import DiffusionExperiment
from training.runs import card


def test_the_card_of_a_model_of_classes_names_them() -> None:
    config = compose.load("digits_diffusion", ["autoencoder=x"])
    assert isinstance(config, DiffusionExperiment)
    named = Description("shoes", 300, 280, "0" * 64, classes=("boot", "sandal"))
    assert "\n| Classes | boot, sandal |\n| Steps | 900 of 32 images |\n" in card.diffusion(config, named, 0.5)
    many = Description("shoes", 300, 280, "0" * 64, classes=tuple(f"class {n}" for n in range(1200)))
    assert "class 99 and 1,100 more |" in card.diffusion(config, many, 0.5)
