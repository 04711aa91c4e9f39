"""What is given on the command line, checked before anything runs."""

from pathlib import Path

import pytest

from kfp_pipelines.definition.arguments import ArgumentError, parameters, parse
from kfp_pipelines.running import data_version


def test_values_are_of_their_parameters_kind() -> None:
    given = [
        "diffusion_overrides=steps=7",
        "diffusion_overrides=name=a-b",
        "smoke_images=0",
        "alias=trial",
        "gate=psnr >= 3",
    ]
    assert parse("full", given) == {
        "diffusion_overrides": ["steps=7", "name=a-b"], "smoke_images": 0, "alias": "trial", "gate": ["psnr >= 3"],
    }  # fmt: skip
    entries = ['autoencoders={"experiment": "digits_autoencoder"}', "guidances=1", "guidances=2.5"]
    assert parse("sweep", entries) == {
        "autoencoders": [{"experiment": "digits_autoencoder"}], "guidances": [1.0, 2.5],
    }  # fmt: skip


def test_a_file_travels_as_its_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("defaults: [digits_diffusion, _self_]\nname: mine\n")
    assert parse("full", [f"diffusion_experiment={path}"]) == {"diffusion_experiment": path.read_text()}


def test_parameters_are_those_of_the_pipeline() -> None:
    found = parameters("fine-tune")
    assert found["base"].required
    assert not found["gate"].required
    assert (found["gate"].of_list, found["gate"].kind, found["smoke_images"].kind) == (True, str, int)


@pytest.mark.parametrize(
    ("variant", "given", "told"),
    [
        ("full", "autoencoder_overrides=steps=0", "steps: 0 is not allowed"),
        ("full", "diffusion_experiment=digit", "experiment: 'digit' is not known; permitted: "),
        ("full", "diffusion_overrides=stepss=5", "stepss: there is no such field; did you mean steps?"),
        ("full", "diffusion_experiment=/none.yaml", "/none.yaml"),
        ("full", "gate=frechet_distance < 2", "'frechet_distance < 2' is no rule; permitted: FIGURE <= NUMBER"),
        ("full", "sampling=step=3", "sampling: 'step=3' is not allowed; permitted: images=, solver=, steps="),
        ("full", "sampling=steps=few", "sampling: steps takes int, got 'few'"),
        ("full", "smoke_images=few", "smoke_images: 'few' is not allowed; permitted: int"),
        ("full", "data=images", "data.image_size: needed and not set"),
        ("full", "bla=3", "'bla=3' is not allowed; permitted: data="),
        ("full", "alias", "'alias' is not allowed; permitted: data="),
        ("diffusion", "alias=a", "diffusion needs autoencoder="),
        ("sweep", "autoencoders=[1]", "autoencoders: '[1]' is not allowed; permitted: a JSON object of texts"),
        ("half", "alias=a", "variant: 'half' is not known; permitted: full, diffusion, fine-tune, sweep"),
    ],
)
def test_a_mistake_names_what_is_permitted(variant: str, given: str, told: str) -> None:
    with pytest.raises(ArgumentError) as error:
        parse(variant, [given])
    assert told in str(error.value)


def test_other_pictures_under_the_same_name_are_another_version(tmp_path: Path) -> None:
    root = f"data.root={tmp_path}"
    (tmp_path / "a.png").write_bytes(b"one")
    first = data_version.of("images", [root])
    assert data_version.of("images", [root]) == first
    (tmp_path / "b.png").write_bytes(b"two")
    assert data_version.of("images", [root]) != first
    assert data_version.of("digits", []) == data_version.of("digits", []) == ""


def test_what_cannot_be_listed_from_here_is_always_another_version() -> None:
    on_a_volume = ["data.root=/mounted/in/the/pod"]
    assert data_version.of("images", on_a_volume) != data_version.of("images", on_a_volume)
