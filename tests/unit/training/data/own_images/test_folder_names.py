"""Names of folders and archives that people have: splits, repeats, folders of other programs, links."""

import bz2
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.own_images import Files, noise_png, preparation_error, write_folder, write_tars
from training.data.image_set import ImageSet
from training.data.own_images import zips
from training.data.own_images.sources import open_source

PNG = [noise_png(number, (8, 8)) for number in range(6)]
CLASSES = {f"{'cat' if number < 3 else 'dog'}/{number}.png": data for number, data in enumerate(PNG)}


def labels(made: ImageSet) -> dict[str, str | None]:
    """Return the label of each image, by its name."""
    return {
        record["name"]: made.description.classes[record["label"]] if "label" in record else None
        for record in made.records
    }


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("images_train", "images_val"),
        ("train_64x64", "valid_64x64"),
        ("1_train", "2_test"),
        ("train", "hold-out"),
        ("Train", "Held Out"),
    ],
)
def test_folders_that_differ_in_a_word_for_a_split_are_splits(
    train: str, held_out: str, make: Callable[..., ImageSet]
) -> None:
    made = make({f"{held_out if name[4] in '25' else train}/{name}": data for name, data in CLASSES.items()})
    assert {record["name"][-9:] for record in made.records[:4]} == {name for name in CLASSES if name[4] not in "25"}
    assert (made.description.train_count, made.description.classes) == (4, ("cat", "dog"))


def test_folders_that_differ_in_more_are_classes(make: Callable[..., ImageSet]) -> None:
    made = make({f"{'train station' if n < 3 else 'test tube'}/{n}.png": data for n, data in enumerate(PNG)})
    assert (made.description.train_count, made.description.classes) == (6, ("test tube", "train station"))


def test_the_repeats_of_kohya_s_folders_are_not_part_of_the_class(make: Callable[..., ImageSet]) -> None:
    made = make({f"{'10_cat toy' if n < 3 else '5_dog'}/{n}.png": data for n, data in enumerate(PNG)})
    assert made.description.classes == ("cat toy", "dog")
    same = make({f"{'10_dog' if n < 3 else '5_dog'}/{n}.png": data for n, data in enumerate(PNG)})
    assert same.description.classes == ("10_dog", "5_dog")
    dates = make({f"{'2024_01' if n < 3 else '2024_02'}/{n}.png": data for n, data in enumerate(PNG)})
    assert dates.description.classes == ("2024_01", "2024_02")


def test_what_other_programs_store_beside_pictures_is_not_read(make: Callable[..., ImageSet]) -> None:
    junk = ["$RECYCLE.BIN/a.png", "cat/@eaDir/0.png/SYNO_THUMB_M.png", "System Volume Information/x.png",
            "lost+found/y.png", "THUMBS.DB", "cat/Desktop.ini"]  # fmt: skip
    assert labels(make(CLASSES | dict.fromkeys(junk, noise_png(9)))) == labels(make(CLASSES))


def test_folders_that_are_links_are_read_and_circles_are_not(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    elsewhere = Path(write_folder(tmp_path / "elsewhere", CLASSES))
    root = tmp_path / "root"
    root.mkdir()
    for name in ("cat", "dog"):
        (root / name).symlink_to(elsewhere / name)
    (elsewhere / "cat" / "back").symlink_to(root)
    (elsewhere / "dog" / "self").symlink_to(".")
    assert labels(make(str(root))) == labels(make(CLASSES))


@pytest.mark.parametrize(("ending", "pack"), [(".tar.bz2", bz2.compress), (".txz", lzma.compress)])
def test_tars_that_are_packed_otherwise(
    ending: str, pack: Callable[[bytes], bytes], make: Callable[..., ImageSet], tmp_path: Path
) -> None:
    plain = Path(write_tars(tmp_path / "tars", CLASSES), "000.tar").read_bytes()
    path = tmp_path / f"pets{ending}"
    path.write_bytes(pack(plain))
    assert labels(make(str(path))) == labels(make(CLASSES))
    path.write_bytes(pack(plain)[: len(pack(plain)) // 2])
    assert "is not a complete tar" in preparation_error(make, str(path))


def test_names_in_archives_may_have_backslashes_or_begin_at_the_root(
    make: Callable[..., ImageSet], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for name, data in CLASSES.items():
            member = zipfile.ZipInfo(name)
            member.filename = name.replace("/", "\\")
            archive.writestr(member, data)
    assert labels(make(str(tmp_path / "windows.zip"))) == labels(make(CLASSES))
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        for name, data in CLASSES.items():
            info = tarfile.TarInfo(f"/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert labels(make(str(tmp_path / "root.tar"))) == labels(make(CLASSES))


def test_a_file_that_no_picture_is_as_large_as_is_not_unpacked(
    make: Callable[..., ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zips, "LARGEST", 5000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in CLASSES.items() | {("cat/bomb.png", bytes(6000))}:
            archive.writestr(name, data)
    message = preparation_error(make, str(tmp_path / "bomb.zip"))
    assert message.endswith(
        "bomb.zip: cat/bomb.png unpacks to 0.00 GB, and no picture is larger than 0.00 GB; remove it"
    )


def test_photographs_of_two_lenses_and_animations_have_their_own_endings(tmp_path: Path) -> None:
    files: Files = {"a.mpo": PNG[0], "b.apng": PNG[1]}
    source = open_source(write_folder(tmp_path / "source", files))
    assert sorted(source.names) == sorted(files)
