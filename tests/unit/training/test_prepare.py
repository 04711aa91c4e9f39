"""The images of a run: a set that is prepared, or a built-in one that is written now."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.own_images import noise_png, write_folder
from training import prepare
from training.data import built_in, image_set
from training.data.image_set import DataError, ImageSet
from training.data.own_images import decoding
from training.experiments import compose
from training.experiments.schema import DataConfig, ExperimentError


def config(*overrides: str) -> DataConfig:
    return compose.data(list(overrides))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared") / "new" / "digits"
    found = prepare.images(config("data=digits", f"data.root={root}"))
    assert len(found.images) == 1797
    return root


def test_a_built_in_set_is_written_where_it_is_missing(digits: Path) -> None:
    assert image_set.read(digits).description.name == "digits"
    assert image_set.read(digits).image_size == 32


def test_a_set_that_is_there_is_read_and_not_written_again(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built_in, "prepare", None)
    before = {path: path.stat().st_mtime_ns for path in digits.iterdir()}
    found = prepare.images(config("data=digits", f"data.root={digits}"))
    assert found.description == image_set.read(digits).description
    assert {path: path.stat().st_mtime_ns for path in digits.iterdir()} == before


def test_a_prepared_set_of_own_pictures_is_read(bars: ImageSet, bars_root: Path) -> None:
    found = prepare.images(
        config("data=images", f"data.root={bars_root}", "data.image_size=16", "data.channels=1", "data.name=bars")
    )
    assert found.description == bars.description


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.image_size=32", "data.channels=1"], r"^data\.image_size: 32; the prepared images in .* have 16$"),
        (["data.image_size=16", "data.channels=3"], r"^data\.channels: 3; the prepared images in .* have 1$"),
    ],
)
def test_a_set_of_another_size_or_colour_is_refused(bars_root: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        prepare.images(config("data=images", f"data.root={bars_root}", *overrides))


def test_digits_have_one_size(digits: Path) -> None:
    with pytest.raises(ExperimentError, match=r"^data\.image_size: 64; the prepared images in .* have 32$"):
        prepare.images(config("data=digits", f"data.root={digits}", "data.image_size=64"))


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(DataError, match=r"^data\.root: .* holds no image set; give another folder, or remove it$"):
        prepare.images(config("data=digits", f"data.root={tmp_path}"))
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(DataError, match=r"^data\.root: "):
        prepare.images(config("data=digits", f"data.root={tmp_path / 'letter.txt'}"))


def test_the_prepared_set_is_named_by_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given two folders called train, then each has its own set, and the first is not prepared again."""
    monkeypatch.chdir(tmp_path)
    roots = {name: write_folder(tmp_path / name / "train", {"a.png": noise_png(n)}) for n, name in enumerate("xy")}
    asked = {name: config("data=images", f"data.root={root}", "data.image_size=8") for name, root in roots.items()}
    first = prepare.images(asked["x"])
    prepare.images(asked["y"])
    folders = {name: prepare.prepared_folder(one) for name, one in asked.items()}
    assert folders["x"] != folders["y"]
    assert all(re.fullmatch(r"data/train-8-[0-9a-f]{8}", str(folder)) for folder in folders.values())
    monkeypatch.setattr(decoding, "decode", None)
    assert prepare.images(asked["x"]).description == first.description
    assert prepare.prepared_folder(replace(asked["x"], prepared="/else/where")) == Path("/else/where")


def test_images_that_are_too_small_are_told_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "shoes", {f"{n}.png": noise_png(n, (28, 28)) for n in range(9)})
    monkeypatch.setattr(decoding, "decode", None)
    with pytest.raises(DataError) as caught:
        prepare.images(config("data=images", f"data.root={root}", "data.image_size=64"))
    assert str(caught.value) == (
        "data.image_size: 64 is more than twice the shorter side of 9 of 9 images (the first: 0.png, 28x28), and such "
        "images are not used; set data.image_size=32"
    )


def test_own_images_are_no_built_in_set(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "shoes", {"boot/1.png": noise_png(1)})
    with pytest.raises(DataError, match=r"holds no image set digits, but images of your own; .* add data=images$"):
        prepare.images(config("data=digits", f"data.root={root}"))


def test_grey_images_are_found(tmp_path: Path) -> None:
    """Given images that are grey, stored as grey or as colour, then the set is grey; else it is in colour."""
    shades = [Image.fromarray(np.full((9, 9), 20 * n, np.uint8)) for n in range(4)]
    for n, shade in enumerate(shades):
        shade.convert("RGB" if n % 2 else "L").save(tmp_path / f"{n}.png")
    assert config("data=images", f"data.root={tmp_path}", "data.image_size=8").channels == 1
    assert config("data=images", f"data.root={tmp_path}", "data.image_size=8", "data.channels=3").channels == 3
    assert config("data=images", "data.root=/nowhere", "data.image_size=8").channels == 3
    write_folder(tmp_path, {"5.png": noise_png(5)})
    assert config("data=images", f"data.root={tmp_path}", "data.image_size=8").channels == 3


def test_a_prepared_set_and_a_release_say_their_channels(bars_root: Path, tmp_path: Path) -> None:
    assert config("data=images", f"data.root={bars_root}", "data.image_size=16").channels == 1
    (tmp_path / "release.json").write_text('{"image_shape": [1, 8, 8]}')
    found = compose.load("emoji_text", ["data.root=/nowhere", f"autoencoder={tmp_path}"])
    assert found.data.channels == 1


def test_an_output_is_the_root_of_a_built_in_set(tmp_path: Path) -> None:
    found = prepare.run(["data=digits"], tmp_path / "digits")
    assert image_set.read(tmp_path / "digits").description == found.description


def test_the_command_tells_what_it_found(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.main(["data=digits", f"data.root={digits}"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("digits: 1437 training images, 360 held out, 1x32x32, sha256 ")
    assert image_set.read(digits).description.fingerprint[:12] in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=images", "data.image_size=32"], "data.root: needed and not set; add data.root=VALUE"),
        (["data=images", "data.rot=x"], "data.rot: there is no such field; did you mean data.root?"),
        (["steps=5"], "'steps=5' is not a data override; permitted: data=NAME and data.FIELD=VALUE"),
        (["data.image_size=0"], "data.image_size: 0 is not allowed; permitted: greater than 0"),
    ],
)
def test_the_command_tells_mistakes_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(arguments) == 2
    assert capsys.readouterr().err.strip() == message
