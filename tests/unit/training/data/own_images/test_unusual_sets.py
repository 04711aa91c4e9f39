"""Sets of one image, of copies, in many scripts; disks that fill, and sources that change while they are read."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.own_images import Files, json_lines, noise_png, read_report, write_folder
from tests.support.small_disk import small_disk
from training.data.image_set import DataError, ImageSet
from training.data.own_images import folder
from training.data.own_images.inspection import inspect
from training.data.own_images.prepare import Settings, prepare


def test_a_disk_that_fills_is_an_error_of_one_line(tmp_path: Path) -> None:
    """The process died of a bus error where the disk was full after the scratch files."""
    source = write_folder(tmp_path / "source", {f"{n:03}.png": noise_png(n, (64, 64)) for n in range(80)})
    needed = 80 * 64 * 64 * 3
    for share in (0.5, 1.5):  # of the scratch file, or of the set that is written from it
        with small_disk(tmp_path / f"disk-{share}", int(share * needed)) as disk:
            with pytest.raises(DataError, match=r"data\.prepared: .* cannot be written \(No space left on device\)$"):
                prepare(source, disk / "set", Settings(64), console=Console(file=io.StringIO()))
            assert not (disk / "set/images.json").exists()


def test_an_image_that_vanishes_while_the_set_is_read_is_counted(
    make: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an image that is deleted after the listing, then it is a bad image."""
    members = folder.Folder.members

    def delete_and_read(self: folder.Folder, *arguments: object) -> object:
        (self.root / "1.png").unlink()
        return members(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(folder.Folder, "members", delete_and_read)
    made = make({f"{n}.png": noise_png(n) for n in range(3)}, max_bad=0.5)
    assert read_report(made)["bad"]["unreadable"]["first"] == [{"name": "1.png", "reason": "No such file or directory"}]


@pytest.mark.parametrize(("gone", "told"), [("1.png", "No such file or directory"), ("1.txt", None)])
def test_an_inspection_of_a_set_that_changes_tells_what_vanished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str, told: str | None
) -> None:
    members = folder.Folder.members

    def delete_and_read(self: folder.Folder, *arguments: object) -> object:
        (self.root / gone).unlink()
        return members(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(folder.Folder, "members", delete_and_read)
    files = {f"{n}.png": noise_png(n) for n in range(3)} | {f"{n}.txt": b"words" for n in range(3)}
    source = write_folder(tmp_path / "source", files)
    if told is None:
        with pytest.raises(DataError, match=r"^data\.root: .*1\.txt cannot be read \(No such file or directory\)$"):
            inspect(source, 9)
    else:
        assert inspect(source, 9).left_out == {f"cannot be used: {told}": [gone]}


def test_copies_one_image_and_classes_of_one(make: Callable[..., ImageSet]) -> None:
    assert make({"a.png": noise_png(1)}, held_out=0.5).description.train_count == 1
    copies = make({f"{n}.png": noise_png(1) for n in range(9)}, held_out=0.2)
    assert (copies.description.count, bool(copies.rows("held_out"))) == (9, True)
    singles = make({f"{kind}/1.png": noise_png(n) for n, kind in enumerate("abc")})
    assert (singles.description.classes, singles.labels(range(3)).tolist()) == (("a", "b", "c"), [0, 1, 2])


def test_captions_in_four_scripts(make: Callable[..., ImageSet]) -> None:
    texts = ["a red boot", "красный сапог", "赤いブーツ", "حذاء أحمر"]
    files: Files = {f"{n}.png": noise_png(n) for n in range(4)}
    made = make(files | {f"{n}.txt": text.encode() for n, text in enumerate(texts)})
    assert [record["text"] for record in made.records] == texts
    rows = json_lines(*({"file_name": f"{n}.png", "text": text} for n, text in enumerate(texts)))
    assert make(files | {"metadata.jsonl": rows}).description == made.description
