"""A plan that begins with a release: what follows from it, and what does not fit it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.releases import make_tiny_release
from training.data.own_images.inspection import Inspection, inspect
from training.experiments import compose
from training.experiments.schema import DiffusionExperiment
from training.model.latent_diffusion import load_autoencoder
from training.model.release import Distilled, Release
from training.planning import fine_tuning
from training.planning import plan as plans
from training.planning.budget import Machine, Start
from training.planning.fine_tuning import Base, check_fit, check_release
from training.planning.plan import Options, Plan
from training.planning.survey import PlanError, Survey, survey

TEN = tuple(map(str, range(10)))
MACHINE = Machine("cpu", 0.001, Start(0.1, 0.2), lambda: 0.0)


def draw_pictures(root: Path, *, side: int = 32) -> Inspection:
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)
        path = root / TEN[number % 10] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return inspect(str(root), 512)


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def found(inspection: Inspection) -> Survey:
    return survey(inspection)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    autoencoder, release = load_autoencoder(make_tiny_release(tmp_path_factory.mktemp("base") / "release"))
    return Base("tiny@4", release, autoencoder)


@pytest.fixture(scope="module")
def made(base: Base, inspection: Inspection, found: Survey) -> tuple[Plan, dict[str, Any]]:
    options = Options(inspection.source, "tuned", 200, base="tiny@production")
    return plans.make(found, inspection, options, "stamp", MACHINE, base)


def options_of(**changed: Any) -> Options:
    return replace(Options("pictures", "tuned", 40, base="tiny"), **changed)


def named(base: Base, **experiment: Any) -> Base:
    return replace(base, release=replace(base.release, lineage={"experiment": experiment}))


def test_size_channels_condition_and_architecture_are_those_of_the_release(made, base, tmp_path):
    plan, experiments = made
    assert (plan.variant, plan.base, plan.size, plan.channels, plan.condition) == (
        "fine-tune", "tiny@4", 32, 1, "class",
    )  # fmt: skip
    plans.write(tmp_path, plan, experiments)
    assert plans.are_written(tmp_path, plan)
    assert Plan.read(tmp_path) == plan
    config = compose.load(str(tmp_path / "diffusion.yaml"), ["autoencoder=x"])
    assert isinstance(config, DiffusionExperiment)
    unet = base.release.architecture["unet"]
    assert {name: getattr(config.model.unet, name) for name in unet} == unet
    assert config.model.diffusion.parameterisation == "eps"
    assert set(experiments) == {"diffusion.yaml"}
    given = plans.arguments(plan, tmp_path)
    assert "base=tiny@4" in given
    assert not any(one.startswith("autoencoder") for one in given)


def test_a_small_set_gets_few_steps_at_a_part_of_the_rate_in_any_time(made, base):
    plan, experiments = made
    assert plan.second_steps == fine_tuning.USUAL_STEPS
    assert fine_tuning.most_steps("cpu", 3200) == 10_000
    assert experiments["diffusion.yaml"]["optimiser"]["learning_rate"] == fine_tuning.RATE
    assert named(base, optimiser={"learning_rate": 2e-3}).learning_rate == pytest.approx(6e-4)
    tuned = replace(base.release, lineage={"experiment": {"optimiser": {"learning_rate": 6e-4}}, "initial": "f" * 64})
    assert replace(base, release=tuned).learning_rate == 6e-4, "it is not lowered again and again"
    assert plan.total < 60 * plan.options.minutes / 2
    assert list(plan.seconds)[:2] == ["fetch-release", "fetch-release-2"]


def test_the_loss_is_that_of_the_release(base):
    trained = named(base, loss={"condition_dropout": 0.2, "norm": "l1", "unknown": 1})
    assert fine_tuning.second_stage(trained, "cpu")["loss"] == {"condition_dropout": 0.2, "norm": "l1"}
    assert fine_tuning.second_stage(base, "cpu")["loss"] == {"condition_dropout": 0.1}


def test_the_plan_says_what_comes_from_the_release(base, found):
    begin, steps = fine_tuning.describe(base, 200, "cpu", found)
    assert begin == "begin with tiny@4: its first stage, U-Net and 10 classes, 32x32 pixels in grey"
    assert steps == (
        "second stage: 200 steps, which see each picture 200 times; learning rate 3e-05, the release states none"
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"size": 64}, "--size: 64 is not allowed with --from tiny@4; permitted: 32, which the release has"),
        (
            {"condition": "none"},
            "--condition: none is not allowed with --from tiny@4; permitted: class, which the release has",
        ),
        (
            {"first_stage": "new"},
            "--first-stage: new is not allowed with --from, because the first stage of the release is used; "
            "permitted: auto",
        ),
    ],
)
def test_options_that_contradict_the_release_are_refused(changed, told, base, found):
    check_fit(base, found, options_of(size=32, condition="class"))
    with pytest.raises(PlanError) as error:
        check_fit(base, found, options_of(**changed))
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"channels": 3}, "PICTURES: they are in colour, and tiny@4 makes grey images; permitted: grey pictures"),
        (
            {"small_side": 15},
            "PICTURES: many have a shorter side of 15 pixels, and tiny@4 makes images of 32; permitted: at least 16",
        ),
        (
            {"classes": {}, "labelled": 0.0},
            "PICTURES: tiny@4 is sampled by class, but the pictures have no labels; permitted: pictures with a class",
        ),
        (
            {"classes": dict.fromkeys(["0", "1", "boot"], 7)},
            "PICTURES: classes: boot is not among those of tiny@4; permitted: 0, 1, 2, 3, 4, 5, 6, 7 and 2 more",
        ),
    ],
)
def test_pictures_that_do_not_fit_the_release_are_refused(changed, told, base, found):
    with pytest.raises(PlanError) as error:
        check_fit(base, replace(found, **changed), options_of())
    assert str(error.value) == told


@pytest.mark.parametrize("names", [["7"], ["3", "2", "8"]])
def test_pictures_of_some_classes_keep_the_classes_of_the_release(names, base, found, inspection, tmp_path):
    some = replace(found, classes=dict.fromkeys(names, 20 // len(names)))
    options = Options(inspection.source, "tuned", 200, base="tiny@production")
    plan, experiments = plans.make(some, inspection, options, "stamp", MACHINE, base)
    assert plan.classes == list(TEN)
    plans.write(tmp_path, plan, experiments)
    assert Plan.read(tmp_path) == plan
    config = compose.load(str(tmp_path / "diffusion.yaml"), ["autoencoder=x"])
    overrides = [one.removeprefix("data_overrides=") for one in plans.arguments(plan, tmp_path)[1:] if "data." in one]
    assert config.data.classes == compose.data(["data=images", *overrides]).classes == TEN
    told = fine_tuning.describe(base, 200, "cpu", some)[-1]
    assert told.startswith("no pictures of 0, 1, ")
    assert told.endswith(": the release keeps these classes, but may draw them worse")


def test_names_that_an_override_cannot_hold_need_pictures_of_all_classes(base, found):
    conditions = {"properties": {"class_label": {"anyOf": [{"enum": ["Große Füße, 猫", 'a "cat"', "dog"]}]}}}
    named_otherwise = replace(base, release=replace(base.release, conditions=conditions))
    check_fit(named_otherwise, replace(found, classes=dict.fromkeys(named_otherwise.classes, 7)), options_of())
    with pytest.raises(PlanError, match=r"may have a backslash, a quote, \$ or a line break in its name"):
        check_fit(named_otherwise, replace(found, classes={"dog": 20}), options_of())
    assert compose.data(
        [
            "data=images",
            "data.root=x",
            "data.image_size=8",
            "data.channels=1",
            f"data.classes={fine_tuning.quoted(['Große, 猫', '1', 'null'])}",
        ]
    ).classes == ("Große, 猫", "1", "null")


def test_grey_pictures_fit_a_release_in_colour(base, found):
    colour = replace(base, release=replace(base.release, image_shape=(3, 32, 32)))
    check_fit(colour, found, options_of())


def test_classes_are_compared_by_name(base, found):
    schema = {"anyOf": [{"type": "integer"}, {"enum": ["boot", "shoe"]}]}
    conditions = {"properties": {"class_label": schema}}
    two = replace(base, release=replace(base.release, conditions=conditions))
    assert (base.classes, two.classes) == (TEN, ("boot", "shoe"))
    check_fit(two, replace(found, classes={"shoe": 9, "boot": 11}), options_of())


def with_types(release: Release, *types: str) -> Release:
    conditioners = {f"field{i}": {"type": one} for i, one in enumerate(types)}
    return replace(release, architecture={**release.architecture, "conditioners": conditioners})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(
            lambda one: replace(one, kind="autoencoder"),
            "--from: x@1 is not allowed; it is a first stage alone; permitted: a diffusion release. "
            "Use it with --first-stage x@1",
            id="first stage",
        ),
        pytest.param(
            lambda one: replace(
                one, conditions={**one.conditions, "distilled": Distilled((1, 2), (1.0, 4.0), 2, 2.0).to_json()}
            ),
            "--from: x@1 is not allowed; it is distilled to few evaluations; permitted: the release that it was made "
            "of, which can be distilled again afterwards",
            id="distilled",
        ),
        pytest.param(
            lambda one: with_types(one, "semantic_map"),
            "--from: x@1 is not allowed; its conditions are semantic_map; permitted: one of class, text, or none. "
            "Others are fine-tuned with python -m training.train initial=RELEASE",
            id="map",
        ),
    ],
)
def test_releases_that_cannot_be_begun_with_are_refused(change, told, base):
    check_release(base.release, "x@1")
    check_release(with_types(base.release), "x@1")
    with pytest.raises(PlanError) as error:
        check_release(change(base.release), "x@1")
    assert str(error.value) == told
