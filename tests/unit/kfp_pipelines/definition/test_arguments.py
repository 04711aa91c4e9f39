"""Arguments of the command line are checked before anything runs."""

from pathlib import Path

import pytest

from kfp_pipelines.definition.arguments import ArgumentError, parameters, parse
from kfp_pipelines.running.data_version import find_version


def test_values_have_the_types_of_their_parameters() -> None:
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


def test_an_experiment_file_is_sent_as_its_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("defaults: [digits_diffusion, _self_]\nname: mine\n")
    assert parse("full", [f"diffusion_experiment={path}"]) == {"diffusion_experiment": path.read_text()}


def test_parameters_are_those_of_the_pipeline() -> None:
    found = parameters("fine-tune")
    assert found["base"].required
    assert not found["gate"].required
    assert (found["gate"].of_list, found["gate"].kind, found["smoke_images"].kind) == (True, str, int)


@pytest.mark.parametrize(
    ("variant", "given", "message"),
    [
        ("full", "autoencoder_overrides=steps=0", "steps: 0 is not allowed"),
        ("full", "diffusion_experiment=digit", "experiment: 'digit' is not known; permitted: "),
        ("full", "diffusion_overrides=stepss=5", "stepss: there is no such field; did you mean steps?"),
        ("full", "diffusion_experiment=/none.yaml", "/none.yaml"),
        ("full", "gate=frechet_distance < 2", "'frechet_distance < 2' is not a rule; permitted: METRIC <= NUMBER"),
        ("full", "sampling=step=3", "sampling: 'step=3' is not allowed; permitted: images=, solver=, steps="),
        ("full", "sampling=steps=few", "sampling: steps must be int, got 'few'"),
        ("full", "request_defaults=steps", "request_defaults: 'steps' is not allowed; permitted: FIELD=VALUE, such as"),
        ("full", "request_defaults=steps=0", "request_defaults: steps: 0 is not allowed; permitted: an integer from 1"),
        ("full", "request_defaults=seed=3", "request_defaults: seed: not a known field; permitted: decoder, guidance_"),
        ("full", "smoke_images=-1", "smoke_images: -1 is not allowed; permitted: 0 for none, or more"),
        ("full", "alias=My Alias", "alias: 'My Alias' is not allowed; permitted: a-z, _ and -, at most 63"),
        ("full", "checkpoints=gs://bucket", "checkpoints: 'gs://bucket' is not allowed; permitted: s3://BUCKET/PREFIX"),
        ("diffusion", "autoencoder=a@b@c", "autoencoder: 'a@b@c' is not allowed; permitted: NAME, NAME@ALIAS or NAME@"),
        ("fine-tune", "base=A", "base: 'A' is not allowed; permitted: NAME"),
        ("distil", "teacher=a@0", "teacher: 'a@0' is not allowed; permitted: NAME"),
        ("sweep", 'autoencoders={"experiment": "digit"}', "experiment: 'digit' is not known; permitted: "),
        (
            "sweep",
            'autoencoders={"experiment": "digits_autoencoder", "overrides": "steps=0"}',
            "steps: 0 is not allowed",
        ),
        ("sweep", 'autoencoders={"experimen": "a"}', 'autoencoders: {"experimen": "a"} is not allowed; permitted'),
        ("full", "smoke_images=few", "smoke_images: 'few' is not allowed; permitted: int"),
        ("full", "data_overrides=data.crop=99", "data.crop: 99 is not allowed; permitted: up to image_size, 32"),
        ("full", "data=images", "data.image_size: needed and not set"),
        ("full", "bla=3", "'bla=3' is not allowed; permitted: data="),
        ("full", "alias", "'alias' is not allowed; permitted: data="),
        ("distil", "alias=a", "distil requires teacher="),
        ("distil", "diffusion_overrides=steps=5", "is not allowed; permitted: teacher=, data="),
        ("diffusion", "alias=a", "diffusion requires autoencoder="),
        (
            "sweep",
            "autoencoders=[1]",
            "autoencoders: '[1]' is not allowed; permitted: a JSON object whose values are strings",
        ),
        ("half", "alias=a", "variant: 'half' is not known; permitted: full, diffusion, fine-tune, distil, sweep"),
    ],
)
def test_a_mistake_names_what_is_permitted(variant: str, given: str, message: str) -> None:
    with pytest.raises(ArgumentError) as error:
        parse(variant, [given])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("distillation_overrides=loss.finest=4", "loss: finest: 4 is not allowed; permitted: 8, 16, 32"),
        ("distillation_overrides=loss.method=jump", "loss.method: 'jump' is not allowed; permitted: 'shortcut'"),
        ("gate=frechet_distance <= 2 * student", "either followed by * production or * teacher"),
    ],
)
def test_a_distillation_is_checked_before_the_run(given: str, message: str) -> None:
    parse("distil", ["teacher=digits@1", "distillation_overrides=loss.method=progressive"])
    with pytest.raises(ArgumentError) as error:
        parse("distil", ["teacher=digits@1", given])
    assert message in str(error.value)


def test_a_batch_that_the_accelerators_cannot_share_is_refused_before_the_run() -> None:
    parse("full", ["autoencoder_overrides=batch_size=64"], {"autoencoder_experiment": 8})
    with pytest.raises(
        ArgumentError, match=r"batch_size: 36 is not allowed; permitted: multiples of accumulate x devices"
    ):
        parse("full", ["autoencoder_overrides=batch_size=36"], {"autoencoder_experiment": 8})
    parse(
        "full",
        ["autoencoder_overrides=batch_size=36", "autoencoder_overrides=devices=4"],
        {"autoencoder_experiment": 8},
    )


def version_of(data: str, overrides: list[str]) -> str:
    return find_version(data, overrides, open_store=lambda bucket: pytest.fail(f"opened {bucket}"))


def test_an_added_image_changes_the_version(tmp_path: Path) -> None:
    root = f"data.root={tmp_path}"
    (tmp_path / "a.png").write_bytes(b"one")
    first = version_of("images", [root])
    assert version_of("images", [root]) == first
    (tmp_path / "b.png").write_bytes(b"two")
    assert version_of("images", [root]) != first
    assert version_of("digits", []) == version_of("digits", []) == ""


def test_images_on_a_pods_volume_have_a_new_version_each_time() -> None:
    on_a_volume = ["data.root=/mounted/in/the/pod"]
    assert version_of("images", on_a_volume) != version_of("images", on_a_volume)
