"""The images of a run: a set that is prepared, or a built-in one that is written now."""

from dataclasses import replace
from pathlib import Path

import pytest

from training import prepare
from training.data import built_in, image_set
from training.data.image_set import DataError, ImageSet
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


@pytest.mark.parametrize(
    ("root", "folder"),
    [
        ("/some/photos", "data/photos-64"),
        ("/some/photos/", "data/photos-64"),
        ("photos.tar", "data/photos-64"),
        ("/tars/part-*.tar", "data/part--64"),
        ("/tars/*.tar", "data/images-64"),
        ("s3://bucket/photos/", "data/photos-64"),
        ("/", "data/images-64"),
    ],
)
def test_the_prepared_set_has_a_folder_of_its_own(root: str, folder: str) -> None:
    asked = replace(config("data=images", "data.root=x", "data.image_size=64"), root=root)
    assert prepare.prepared_folder(asked) == Path(folder)
    assert prepare.prepared_folder(replace(asked, prepared="/else/where")) == Path("/else/where")


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
        (["data.image_size=0"], "data.image_size: 0 is not allowed; Input should be greater than 0"),
    ],
)
def test_the_command_tells_mistakes_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(arguments) == 2
    assert capsys.readouterr().err.strip() == message
