"""The user's own pictures as a set: the same from every source, bad ones counted and named, made once."""

import io
import json
import random
import tarfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from training.data import image_set
from training.data.image_set import DataError, ImageSet
from training.data.own_images import gathering
from training.data.own_images import prepare as preparation
from training.data.own_images.prepare import prepare, prepared, source_stamp
from training.data.own_images.report import PreparationProgress

Files = dict[str, bytes]
EMOJI = Path(__file__).parents[5].parent / "shared/data/emoji-64"


def png(number: int, size: tuple[int, int] = (12, 8), **options: Any) -> bytes:
    file = io.BytesIO()
    shape = (size[1], size[0], 3)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)).save(file, "PNG", **options)
    return file.getvalue()


def plane(values: Any, repeat: int = 1) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.kron(np.array(values), np.ones((repeat, repeat))).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def lines(*records: Mapping[str, Any]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def folder(root: Path, files: Files) -> str:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def tars(root: Path, files: Files, count: int = 1, seed: int | None = None) -> str:
    """The files as tars, in their order or in another one."""
    names = list(files)
    if seed is not None:
        random.Random(seed).shuffle(names)
    root.mkdir(parents=True, exist_ok=True)
    for part in range(count):
        with tarfile.open(root / f"{part:03}.tar", "w") as archive:
            for name in names[part::count]:
                info = tarfile.TarInfo(name)
                info.size = len(files[name])
                archive.addfile(info, io.BytesIO(files[name]))
    return str(root)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., ImageSet]:
    """Prepare a source, or files as a folder, at size 8 without held-out pictures."""
    console = Console(file=io.StringIO(), width=120)
    made = iter(range(100))

    def run(source: str | Files, **options: Any) -> ImageSet:
        number = next(made)
        if isinstance(source, dict):
            source = folder(tmp_path / f"source-{number}", source)
        return prepare(
            source, tmp_path / f"set-{number}", **{"image_size": 8, "held_out": 0.0, "console": console, **options}
        )

    return run


def told(made: ImageSet) -> dict[str, Any]:
    root = Path(made.images.filename).parent  # type: ignore[attr-defined]
    document: dict[str, Any] = json.loads((root / "report.json").read_text())
    return document


def refused(make: Callable[..., ImageSet], source: str | Files, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        make(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


RECORDS = [
    {"file_name": "a.png", "text": "first", "label": "cat", "boxes": [{"label": "ear", "box": [2, 0, 6, 8]}]},
    {"file_name": "sub/b.png", "text": "second", "label": "dog", "boxes": [{"label": "tail", "box": [0, 0, 2.5, 3]}]},
    {"file_name": "sub/c.png", "text": "third", "label": "cat"},
]
ANNOTATED: Files = {
    "metadata.jsonl": lines(*RECORDS),
    "a.png": png(1),
    "sub/b.png": png(2),
    "sub/c.png": png(3),
    "sub/d.png": png(4),
    "a.map.png": plane([[1, 2, 3], [4, 5, 6]], 4),
    "sub/b.map.png": plane(np.full((8, 12), 9)),
    "sub/c.map.png": plane(np.full((8, 12), 2)),
    "a.mask.png": plane(np.full((8, 12), 255)),
    "sub/b.mask.png": plane(np.zeros((8, 12))),
    "sub/c.mask.png": plane(np.zeros((8, 12))),
}


def test_what_a_set_holds(make: Callable[..., ImageSet]) -> None:
    made = make(ANNOTATED, name="pets")

    assert [record["name"] for record in made.records] == ["a.png", "sub/b.png", "sub/c.png"]
    assert [record["text"] for record in made.records] == ["first", "second", "third"]
    assert made.labels([0, 1, 2]).tolist() == [0, 1, 0]
    assert made.description.classes == ("cat", "dog")
    assert made.description.box_classes == ("ear",)
    assert made.description.map_classes == tuple(map(str, range(10)))
    assert made.records[0]["boxes"] == [{"box": [0, 0, 0.5, 1], "class": 0}]
    assert made.records[1]["boxes"] == [], "less than a quarter of the tail is in the crop"
    assert "boxes" not in made.records[2]
    for row, number in enumerate((1, 2, 3)):
        original = np.asarray(Image.open(io.BytesIO(png(number))))
        assert np.array_equal(made.images[row], original[:, 2:10])
    assert made.maps is not None
    assert made.maps[0, 0].tolist() == [1, 1, 2, 2, 2, 2, 3, 3]
    assert made.maps[1].min() == 9
    assert made.masks is not None
    assert [int(mask.max()) for mask in made.masks] == [255, 0, 0]
    assert (made.description.name, made.image_size, made.channels) == ("pets", 8, 3)
    report = told(made)
    assert (report["found"], report["good"], report["dropped_objects"]) == (3, 3, 1)
    assert report["not_listed"] == {"count": 1, "first": ["sub/d.png"]}
    assert report["classes"] == {"cat": 2, "dog": 1}
    assert report["sizes"]["width"] == {"min": 12, "median": 12, "max": 12}


def test_a_folder_and_tars_in_any_order_make_the_same_set(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    of_folder = make(ANNOTATED).description
    assert make(tars(tmp_path / "one", ANNOTATED)).description == of_folder
    for seed in range(4):
        assert make(tars(tmp_path / f"shuffled-{seed}", ANNOTATED, 1 + seed, seed)).description == of_folder
    beside = tars(tmp_path / "beside", {name: data for name, data in ANNOTATED.items() if name != "metadata.jsonl"}, 2)
    (Path(beside) / "metadata.jsonl").write_bytes(ANNOTATED["metadata.jsonl"])
    assert make(beside).description == of_folder


def test_the_files_of_a_set_are_the_same_bytes(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    roots = [
        Path(made.images.filename).parent  # type: ignore[attr-defined]
        for made in (make(ANNOTATED), make(tars(tmp_path / "tars", ANNOTATED, 3, 5)))
    ]
    for name in ("images.npy", "maps.npy", "masks.npy", "records.jsonl", "images.json", "report.json"):
        assert (roots[0] / name).read_bytes() == (roots[1] / name).read_bytes(), name


def test_webdataset_members_make_the_same_set_as_metadata(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    """Given the same pictures with json, txt and cls members, then the records are the same."""
    pictures = {name: data for name, data in ANNOTATED.items() if name not in ("metadata.jsonl", "sub/d.png")}
    members = {
        "a.json": json.dumps({"boxes": RECORDS[0]["boxes"], "label": "cat"}).encode(),
        "a.txt": b"first\n",
        "sub/b.json": json.dumps({"boxes": RECORDS[1]["boxes"]}).encode(),
        "sub/b.txt": b"second",
        "sub/b.cls": b"dog",
        "sub/c.json": json.dumps({"text": "third", "label": "cat"}).encode(),
    }
    of_tar = make(tars(tmp_path / "tars", pictures | members, 2, 1))
    assert of_tar.description == make(ANNOTATED).description
    assert make(pictures | members).description == of_tar.description


def test_maps_under_other_names_have_to_be_announced(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    record = {"file_name": "a.png", "map": "maps/a.png", "mask": "masks/a.png"}
    announced = {
        "metadata.jsonl": lines(record),
        "maps/a.png": plane(np.full((8, 12), 7)),
        "masks/a.png": plane(np.full((8, 12), 255)),
        "a.png": png(1),
    }
    made = make(announced)
    assert made.maps is not None
    assert made.maps.max() == 7
    assert make(tars(tmp_path / "first", announced)).description == made.description
    late = dict(reversed(announced.items()))
    assert make(late).description == made.description
    message = refused(make, tars(tmp_path / "last", late))
    assert "maps/a.png came before the metadata that calls it a map; put metadata.jsonl first" in message


def test_sub_folders_are_labels_and_text_files_captions(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    files = {"dog/1.png": png(1), "cat/1.jpg": png(2), "cat/2.png": png(3), "cat/2.txt": b" sits \n"}
    made = make(files)
    assert made.description.classes == ("cat", "dog")
    assert made.labels([0, 1, 2]).tolist() == [0, 0, 1]
    assert [record.get("text") for record in made.records] == [None, "sits", None]
    assert (told(made)["without_text"], told(made)["without_label"]) == (2, 0)
    assert make(tars(tmp_path / "tars", files, 2, 3)).description == made.description
    assert make({"images/1.png": png(1), "images/2.png": png(2)}).description.classes == ()


def test_labels_that_are_numbers(make: Callable[..., ImageSet]) -> None:
    made = make({"a.png": png(1), "a.cls": b"10", "b.png": png(2), "b.cls": b"9\n"})
    assert made.description.classes == ("9", "10")
    assert made.labels([0, 1]).tolist() == [1, 0]
    assert "labels mix numbers (a.png: 10) and names" in refused(
        make, {"a.png": png(1), "a.cls": b"10", "b.png": png(2), "b.cls": b"nine"}
    )


def test_grey_sets(make: Callable[..., ImageSet]) -> None:
    made = make({"a.png": png(1)}, channels=1)
    assert made.images.shape == (1, 8, 8, 1)
    assert told(made)["converted"] == {"colour": 1}


# Held-out pictures


def test_records_say_what_is_held_out(make: Callable[..., ImageSet]) -> None:
    splits = ["held_out", "train", "test", None, "validation"]
    records = [{"file_name": f"{n}.png", "split": split} for n, split in enumerate(splits)]
    files = {"metadata.jsonl": lines(*records), **{f"{n}.png": png(n) for n in range(5)}}
    made = make(files, held_out=0.9)
    assert [record["name"] for record in made.records] == ["1.png", "3.png", "0.png", "2.png", "4.png"]
    assert made.description.train_count == 2
    everything = [{"file_name": f"{n}.png", "split": "test"} for n in range(5)]
    assert "every picture's split is held out" in refused(make, files | {"metadata.jsonl": lines(*everything)})


def test_pictures_that_are_added_move_no_other(make: Callable[..., ImageSet]) -> None:
    def held(count: int) -> set[str]:
        made = make({f"{n}.png": png(0) for n in range(count)}, held_out=0.2)
        return {made.records[row]["name"] for row in made.rows("held_out")}

    few, many = held(60), held(120)
    assert few == {name for name in many if int(name.removesuffix(".png")) < 60}
    assert 5 <= len(few) <= 20


def test_at_least_one_picture_is_on_each_side(make: Callable[..., ImageSet]) -> None:
    files = {f"{n}.png": png(n) for n in range(3)}
    assert make(files, held_out=0.0).description.train_count == 3
    assert make(files, held_out=1e-9).description.train_count == 2
    assert make(files, held_out=0.999999).description.train_count == 1
    assert make({"a.png": png(1)}, held_out=0.5).description.train_count == 1


# Bad pictures


def test_one_corrupt_picture_among_many_is_left_out_and_named(make: Callable[..., ImageSet]) -> None:
    files = {f"{n:03}.png": png(n) for n in range(150)}
    whole = make({name: data for name, data in files.items() if name != "070.png"})
    made = make(files | {"070.png": png(70)[:-40]})
    assert told(made)["bad"] == {
        "truncated": {"count": 1, "first": [{"name": "070.png", "reason": "image file is truncated"}]}
    }
    assert (told(made)["found"], told(made)["good"]) == (150, 149)
    assert made.description == whole.description


def test_too_many_bad_pictures_are_refused_and_nothing_is_left_half_written(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", {f"{n:02}.png": png(n) for n in range(50)})
    root = tmp_path / "sets/own"
    before = prepare(source, root, image_size=8).description
    folder(tmp_path / "source", {"07.png": b"", "03.png": png(3)[:-40], "09.png": png(9, (3, 3)), "11.png": b""})
    with pytest.raises(DataError) as caught:
        prepare(source, root, image_size=8)
    listing = root.with_name("own.refused.json")
    assert str(caught.value) == (
        "data.root: 4 of 50 pictures cannot be used (8 %, permitted: data.max_bad=1 %): 2 empty, 1 tiny, 1 truncated; "
        "the first: 03.png: truncated (image file is truncated). Mend or remove them, or raise data.max_bad; "
        f"more are named in {listing}"
    )
    assert json.loads(listing.read_text())["bad"]["empty"]["count"] == 2
    assert image_set.read(root).description == before
    assert {path.name for path in root.parent.iterdir()} == {"own", "own.refused.json"}
    assert prepare(source, root, image_size=8, max_bad=0.08).description.count == 46
    assert {path.name for path in root.parent.iterdir()} == {"own"}


def test_what_metadata_names_and_is_not_there_counts_as_bad(make: Callable[..., ImageSet]) -> None:
    records = [{"file_name": name} for name in ("a.png", "gone.png", "b.heic")]
    files = {"metadata.jsonl": lines(*records), "a.png": png(1), "b.heic": b"?"}
    message = refused(make, files)
    assert "2 of 3 pictures cannot be used (67 %" in message
    assert "1 missing, 1 unsupported; the first: b.heic: unsupported (ends in .heic; pictures are .png" in message
    bad = told(make(files, max_bad=0.9))["bad"]
    assert bad["missing"]["first"][0]["name"] == "gone.png"
    assert "metadata.jsonl:2), but not there" in bad["missing"]["first"][0]["reason"]


@pytest.mark.parametrize(
    ("record", "extra", "reason"),
    [
        ({"boxes": [{"label": "x", "box": [0, 0, 14, 8]}]}, {}, "lies outside the picture of 12x8 pixels"),
        ({"boxes": [{"label": "x", "box": [5, 0, 5, 8]}]}, {}, "with x0 < x1"),
        ({"map": "m.png"}, {}, "its map m.png is not there"),
        ({"map": "m.png"}, {"m.png": plane(np.zeros((8, 8)))}, "its map m.png is 8x8, the picture 12x8 (upright)"),
        ({"map": "m.png"}, {"m.png": png(1)}, "its map m.png is RGB; a map is a grey or palette PNG"),
        ({"mask": "m.png"}, {"m.png": plane(np.zeros((8, 8)))}, "its mask m.png is 8x8, the picture 12x8"),
        ({"mask": "m.png"}, {"m.png": plane(np.ones((8, 12)))}, "nowhere brighter than 1 of 255"),
        ({"mask": "m.png"}, {"m.png": plane(np.zeros((8, 12)))}, "b.png: no mask (has no mask, and others have one)"),
    ],
)
def test_bad_records_and_planes(
    make: Callable[..., ImageSet], record: dict[str, Any], extra: Files, reason: str
) -> None:
    metadata = lines({"file_name": "a.png", **record}, {"file_name": "b.png"})
    assert reason in refused(make, {"metadata.jsonl": metadata, "a.png": png(1), "b.png": png(2), **extra})


def test_a_turned_picture_has_boxes_and_maps_as_it_is_seen(make: Callable[..., ImageSet]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    boxes = [{"label": "top", "box": [0, 0, 8, 6]}]
    made = make(
        {
            "metadata.jsonl": lines({"file_name": "a.png", "boxes": boxes}),
            "a.png": png(1, (12, 8), exif=exif),
            "a.map.png": plane(np.zeros((12, 8))),
        }
    )
    assert made.records[0]["boxes"][0]["box"] == [0, 0, 1, 0.5]


def test_sources_without_pictures(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    message = refused(make, {"a.heic": b"", "b.heic": b"", "c": b""})
    assert "has no pictures in it (.png, .jpg," in message
    assert message.endswith("it holds 2 .heic, 1 no ending")
    assert "has no pictures in it" in refused(make, tars(tmp_path / "empty", {}))
    assert "does not exist" in refused(make, str(tmp_path / "nowhere"))
    assert "is not JSON" in refused(make, {"a.png": png(1), "metadata.jsonl": b"{"})


def test_names_have_to_be_unique(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    tars(tmp_path / "tars/x", {"a.png": png(1)})
    tars(tmp_path / "tars/y", {"./a.png": png(2)})
    message = refused(make, str(tmp_path / "tars/*/*.tar"))
    assert "two files are called a.png: " in message
    assert "x/000.tar: a.png and " in message


def test_links_in_tars_are_bad(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    source = tars(tmp_path / "tars", {"a.png": png(1)})
    with tarfile.open(tmp_path / "tars/001.tar", "w") as archive:
        info = tarfile.TarInfo("b.png")
        info.type, info.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(info)
    assert "b.png: link (is a link inside its tar" in refused(make, source)


def test_a_set_does_not_lie_among_its_pictures(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", {"a.png": png(1)})
    for root in (tmp_path / "source", tmp_path / "source/set"):
        with pytest.raises(DataError, match=r"lies inside data\.root"):
            prepare(source, root, image_size=8)
    assert prepare(source, tmp_path / "source/.darkroom/set", image_size=8).description.count == 1
    assert prepare(source, tmp_path / "source/.darkroom/set", image_size=8).description.count == 1


# Memory and threads


def test_few_pictures_are_in_memory_at_once(
    make: Callable[..., ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given more pictures than the window holds, then a picture is only read once an earlier one is on disk."""
    source = tars(tmp_path / "tars", {f"{n:03}.png": png(n) for n in range(100)})
    waiting, most, lock = 0, 0, threading.Lock()
    submitted, kept = gathering.Gathered._is_first, gathering.Gathered._keep

    def count(by: int) -> None:
        nonlocal waiting, most
        with lock:
            waiting += by
            most = max(most, waiting)

    def first(self: Any, *arguments: Any) -> None:
        count(1)
        submitted(self, *arguments)

    def keep(self: Any, *arguments: Any) -> None:
        kept(self, *arguments)
        count(-1)

    monkeypatch.setattr(gathering.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(gathering.Gathered, "_is_first", first)
    monkeypatch.setattr(gathering.Gathered, "_keep", keep)
    assert make(source).description.count == 100
    assert most == 2 * gathering.AHEAD
    assert waiting == 0


def test_an_error_of_the_program_is_not_taken_for_a_bad_picture(
    make: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gathering.pictures, "decode", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make({f"{n}.png": png(n) for n in range(30)})
    assert not list(tmp_path.glob("set-*"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_a_log_gets_lines_and_a_terminal_a_bar(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = preparation.open_source(folder(tmp_path / "source", {"a.png": png(1)}))
    source.position = source.total // 2
    log = PreparationProgress(source, Console(file=io.StringIO()))
    with log.shown():
        log(10, 1)
        assert capsys.readouterr().out == ""
        log.next = log.began = log.began - 10
        log(40, 2)
        log(41, 2)
    out = capsys.readouterr().out
    assert out.startswith("40 pictures (50 %), 2 bad  4 a second, 10 s, 10 s to go")
    assert out.count("\n") == 1
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    bar = PreparationProgress(source, terminal)
    with bar.shown():
        bar(40, 2)
    assert "40 pictures, 2 bad" in terminal.file.getvalue()  # type: ignore[attr-defined]


# Made once


def test_a_set_is_made_once_until_its_source_or_the_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "source", {f"{n}.png": png(n) for n in range(5)})
    decoded: list[int] = []
    decode = gathering.pictures.decode
    monkeypatch.setattr(
        gathering.pictures, "decode", lambda data, **options: (decoded.append(1), decode(data, **options))[1]
    )

    def again(**options: Any) -> int:
        decoded.clear()
        options = {"image_size": 8, "console": Console(file=io.StringIO()), **options}
        made = prepared(source, tmp_path / "sets/own", **options)
        assert made.image_size == options["image_size"]
        return len(decoded)

    assert [again(), again()] == [5, 0]
    folder(tmp_path / "source", {"5.png": png(5)})
    assert [again(), again()] == [6, 0], "a picture came"
    (tmp_path / "source/5.png").unlink()
    assert [again(), again()] == [5, 0], "a picture went"
    folder(tmp_path / "source", {"4.png": png(6)})
    assert [again(), again()] == [5, 0], "a picture changed"
    assert [again(image_size=10), again(image_size=10)] == [5, 0]
    assert [again(held_out=0.5), again(held_out=0.5)] == [5, 0]
    (tmp_path / "sets/own/images.npy").unlink()
    assert [again(held_out=0.5), again(held_out=0.5)] == [5, 0], "a damaged set is made again"
    note = json.loads((tmp_path / "sets/own/source.json").read_text())
    assert (note["source"], note["held_out"]) == (source, 0.5)


def test_the_stamp_of_tars(tmp_path: Path) -> None:
    source = tars(tmp_path / "tars", {"a.png": png(1)})
    stamp = source_stamp(source, {"image_size": 8})
    assert stamp == source_stamp(source, {"image_size": 8})
    assert stamp != source_stamp(source, {"image_size": 9})
    (tmp_path / "tars/metadata.jsonl").write_bytes(b"")
    assert stamp != source_stamp(source, {"image_size": 8})
    with pytest.raises(DataError, match="does not exist"):
        source_stamp(str(tmp_path / "nowhere"), {})


def test_an_interrupted_preparation_is_made_good(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", {"a.png": png(1)})
    folder(tmp_path / "sets/own.scratch", {"pictures": b"left over"})
    folder(tmp_path / "sets/own", {"images.npy": b"half"})
    made = prepared(source, tmp_path / "sets/own", image_size=8, console=Console(file=io.StringIO()))
    assert made.description.count == 1
    assert not (tmp_path / "sets/own.scratch").exists()


def test_of_two_at_once_one_prepares_and_the_other_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path / "source", {"a.png": png(1)})
    began, go_on = threading.Event(), threading.Event()
    calls: list[int] = []
    make = preparation.prepare

    def slow(*arguments: Any, **options: Any) -> ImageSet:
        calls.append(1)
        began.set()
        assert go_on.wait(30)
        return make(*arguments, **options)

    monkeypatch.setattr(preparation, "prepare", slow)
    made: list[ImageSet] = []
    consoles = [Console(file=io.StringIO(), width=300) for _ in range(2)]

    def run(console: Console) -> None:
        made.append(prepared(source, tmp_path / "sets/own", image_size=8, console=console))

    threads = [threading.Thread(target=run, args=(console,)) for console in consoles]
    threads[0].start()
    assert began.wait(30)
    threads[1].start()
    while "waiting for it" not in consoles[1].file.getvalue():  # type: ignore[attr-defined]
        assert threads[1].is_alive()
        threads[1].join(0.01)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(calls) == 1
    assert made[0].description == made[1].description


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", {"a.png": png(1)})
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data.prepared: .* cannot be written"):
        prepared(source, tmp_path / "file/set", image_size=8)


@pytest.mark.skipif(not EMOJI.is_dir(), reason=f"{EMOJI} is not there")
def test_nineteen_hundred_emoji(make: Callable[..., ImageSet]) -> None:
    made = make(str(EMOJI), image_size=64, held_out=0.05)
    assert (told(made)["found"], told(made)["good"], told(made)["bad"]) == (1906, 1906, {})
    assert len(made.description.classes) == 9
    assert 60 <= len(made.rows("held_out")) <= 130
    assert (told(made)["without_text"], told(made)["without_label"]) == (0, 0)
    assert np.asarray(made.images[:, 0, 0]).mean() > 150, "what is clear around an emoji is white"
