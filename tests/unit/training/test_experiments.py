"""The shipped experiments compose, check and build; a person's mistakes are told in one line."""

from dataclasses import asdict

import pytest
import yaml

from training import experiment
from training.experiment import AutoencoderExperiment, DiffusionExperiment, ExperimentError
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.latent_diffusion import LatentDiffusion
from training.model.unet import UNetConfig
from training.train import plain

NEEDED = {"digits_diffusion": ["autoencoder=somewhere"]}


def loaded(name: str, *overrides: str) -> experiment.Experiment:
    return experiment.load(name, [*NEEDED.get(name, []), *overrides])


@pytest.mark.parametrize("name", experiment.names())
def test_every_experiment_composes_and_builds(name: str) -> None:
    config = loaded(name)
    if isinstance(config, AutoencoderExperiment):
        assert sum(p.numel() for p in Autoencoder(config.model).parameters()) > 0
    else:
        first = {"autoencoder": plain(AutoencoderConfig(channels=32))}
        assert sum(p.numel() for p in LatentDiffusion.build({**plain(config.model), **first}).unet.parameters()) > 0


def test_the_digits_models_have_the_size_that_was_tuned() -> None:
    first, second = loaded("digits_autoencoder"), loaded("digits_diffusion")
    assert isinstance(first, AutoencoderExperiment)
    assert isinstance(second, DiffusionExperiment)
    model = LatentDiffusion.build({**plain(second.model), "autoencoder": plain(first.model)})
    assert sum(p.numel() for p in model.autoencoder.parameters()) == 694_527
    assert sum(p.numel() for p in model.unet.parameters()) == 1_704_450
    assert second.model.unet.in_channels == second.model.unet.out_channels == first.model.latent_channels


@pytest.mark.parametrize(
    ("file", "key", "fields"), [("autoencoder", None, AutoencoderConfig()), ("diffusion", "unet", UNetConfig())]
)
def test_a_recipe_documents_every_field_of_its_model(file: str, key: str | None, fields: object) -> None:
    model = yaml.safe_load((experiment.CONFIGS / "recipe" / f"{file}.yaml").read_text())["model"]
    assert set(model[key] if key else model) == set(asdict(fields))  # type: ignore[call-overload]


def test_overrides_reach_the_field() -> None:
    config = loaded("digits_autoencoder", "steps=7", "optimiser.learning_rate=0.5", "data.root='/a b/c,d'", "seed=3")
    assert (config.steps, config.seed, config.data.root) == (7, 3, "/a b/c,d")
    assert config.optimiser.learning_rate == 0.5


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("digts", [], "experiment: 'digts' is not known; permitted: digits_autoencoder, digits_diffusion"),
        ("digits_diffusion", [], "autoencoder: needed and not set; add autoencoder=VALUE"),
        (
            "digits_autoencoder",
            ["model.chanels=3"],
            "model.chanels: there is no such field; did you mean model.channels?",
        ),
        ("digits_autoencoder", ["+model.colour=3"], "model.colour: there is no such field"),
        ("digits_autoencoder", ["model.channels=wide"], "model.channels: 'wide' is not allowed; Input should be"),
        ("digits_autoencoder", ["steps=0"], "steps: 0 is not allowed; Input should be greater than 0"),
        ("digits_autoencoder", ["seed=-1"], "seed: -1 is not allowed"),
        ("digits_autoencoder", ["name=My Model"], "name: 'My Model' is not allowed"),
        ("digits_autoencoder", ["device=tpu"], "device: 'tpu' is not allowed; Input should be 'auto', 'cpu' or 'cuda'"),
        ("digits_autoencoder", ["steps"], "'steps' is not an override; write field=value"),
        ("digits_autoencoder", ["steps=[1"], "'steps=[1' is not an override; write field=value"),
        ("digits_autoencoder", ["name=${nowhere}"], "Interpolation key 'nowhere' not found"),
        ("digits_autoencoder", ["recipe=gan"], "Could not find 'recipe/gan'"),
        ("digits_diffusion", ["autoencoder=x", "loss.condition_dropout=1"], "loss.condition_dropout: 1 is not allowed"),
        (
            "digits_diffusion",
            ["autoencoder=x", "model.diffusion.schedule=flow", "model.diffusion.parameterisation=flow"],
            "loss.min_snr_gamma: 5.0 is not allowed with zero_terminal_snr or the schedule 'flow': pure noise, where",
        ),
        (
            "digits_diffusion",
            ["autoencoder=x", "model.diffusion.parameterisation=flow"],
            "model.diffusion.parameterisation: 'flow' is not allowed with the schedule 'scaled_linear'; permitted: eps",
        ),
        (
            "digits_diffusion",
            ["autoencoder=x", "model.diffusion.parameterisation=mu"],
            "model.diffusion.parameterisation: 'mu' is not allowed; Input should be 'eps', 'x0', 'v' or 'flow'",
        ),
        (
            "digits_diffusion",
            ["autoencoder=x", "loss.timestep_sampling.std=0"],
            "loss.timestep_sampling.std: 0 is not allowed; Input should be greater than 0",
        ),
        (
            "digits_autoencoder",
            ["model.regularisation=vq"],
            "model.regularisation: 'vq' is not trained yet; permitted: 'kl'",
        ),
    ],
)
def test_mistakes_name_the_field_in_one_line(name: str, overrides: list[str], told: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        experiment.load(name, overrides)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
