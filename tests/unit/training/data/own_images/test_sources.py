"""Folders and tars as streams of named files, and what is said of the images in them."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, IncompleteReadError

from training.data.image_set import DataError
from training.data.own_images import object_storage
from training.data.own_images.annotations import Annotations, class_names, folder_labels
from training.data.own_images.object_storage import ObjectStream
from training.data.own_images.sources import open_source


def tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def members(source: Any) -> dict[str, bytes]:
    return {member.name: member.read() for member in open_source(str(source)).members(lambda name: True)}


def refused(source: Any) -> str:
    with pytest.raises(DataError) as caught:
        members(source)
    message = str(caught.value)
    assert message.startswith("data.root: ")
    assert "\n" not in message
    return message


FILES = {"a.png": b"1", "sub/b.jpg": b"22" * 5000, "metadata.jsonl": b"{}"}


def test_a_folder_and_its_tar_hold_the_same_files(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", FILES)
    with tarfile.open(tmp_path / "made.tar", "w") as archive:
        archive.add(root, ".")  # as tar -C images -cf made.tar . does: names begin with ./
    assert members(root) == members(tmp_path / "made.tar") == FILES


def test_a_folder_tells_its_metadata_first_and_hides_what_is_hidden(tmp_path: Path) -> None:
    files = {"a/x.png": b"1", "b/metadata.jsonl": b"", ".DS_Store": b"", ".cache/y.png": b"", "__MACOSX/z.png": b""}
    root = folder(tmp_path / "pictures", {**files, "._a.png": b""})
    (root / "gone.png").symlink_to(root / "nowhere.png")
    assert list(members(root)) == ["b/metadata.jsonl", "a/x.png"]
    assert list(members(tar(tmp_path / "x.tar", files))) == ["a/x.png", "b/metadata.jsonl"]


@pytest.mark.parametrize(("ending", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz")])
def test_tars_by_every_way_of_naming_them(tmp_path: Path, ending: str, mode: str) -> None:
    tar(tmp_path / f"tars/1{ending}", {"b.png": b"b"}, mode)
    tar(tmp_path / f"tars/0{ending}", {"a.png": b"a"}, mode)
    folder(tmp_path / "tars", {"metadata.jsonl": b"beside", "readme.md": b""})
    assert members(tmp_path / "tars") == {"metadata.jsonl": b"beside", "a.png": b"a", "b.png": b"b"}
    assert list(members(tmp_path / "tars")) == ["metadata.jsonl", "a.png", "b.png"]
    assert members(tmp_path / f"tars/[0-9]{ending}") == members(tmp_path / "tars")
    assert members(tmp_path / f"tars/1{ending}") == {"metadata.jsonl": b"beside", "b.png": b"b"}


def test_only_wanted_bodies_are_read(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", FILES)
    for source in (path, folder(tmp_path / "pictures", FILES)):
        bodies = {m.name: m.body is not None for m in open_source(str(source)).members(lambda name: name == "a.png")}
        assert bodies == {"a.png": True, "sub/b.jpg": False, "metadata.jsonl": False}


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    for path in (tar(tmp_path / "x.tar", FILES), folder(tmp_path / "pictures", FILES)):
        source = open_source(str(path))
        for _ in source.members(lambda name: True):
            pass
        assert source.position == source.total > 10_000


def test_a_tar_of_many_files_is_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "x.tar", {f"{number}.png": b"" for number in range(300)})
    kept = []
    opened = tarfile.open

    def watched(**options: Any) -> tarfile.TarFile:
        kept.append(opened(**options))
        return kept[-1]

    monkeypatch.setattr(tarfile, "open", watched)
    for _ in open_source(str(path)).members(lambda name: True):
        assert len(kept[0].members) <= 1  # type: ignore[attr-defined]  # what the class keeps in memory


def test_links_in_a_tar_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {"a.png": b"1"})
    os.link(root / "a.png", root / "b.png")
    (root / "c.png").symlink_to("a.png")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("a.png", "b.png", "c.png"):
            archive.add(root / name, name)
    links = [m.link for m in open_source(str(tmp_path / "x.tar")).members(lambda name: True)]
    assert links == [False, True, True]


@pytest.mark.parametrize("cut", [100, 512, 700, 1024, 1536, 2000, 2560])
def test_a_tar_that_was_cut_short_is_an_error_wherever_the_cut(tmp_path: Path, cut: int) -> None:
    path = tar(tmp_path / "x.tar", {"a.png": b"1" * 512, "b.png": b"2" * 900})  # headers at 0 and 1024, end at 2560
    path.write_bytes(path.read_bytes()[:cut])
    assert f"{path} is not a complete tar" in refused(path)


def test_a_damaged_tar_is_an_error(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {"a.png": b"1" * 512, "b.png": b"2" * 900})
    data = bytearray(path.read_bytes())
    data[1024 + 5] ^= 1  # in the second header
    path.write_bytes(data)
    assert "is not a complete tar (bad checksum)" in refused(path)
    path.write_bytes(b"")
    assert "is not a complete tar" in refused(path)
    path.write_bytes(b"no tar at all" * 100)
    assert "is not a complete tar" in refused(path)
    packed = tar(tmp_path / "y.tar.gz", {"a.png": os.urandom(5000)}, "w:gz")
    packed.write_bytes(packed.read_bytes()[:3000])
    assert "is not a complete tar" in refused(packed)


def test_what_is_no_source(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere").endswith("nowhere does not exist")
    assert "no tar matches" in refused(tmp_path / "*.tar")
    file = folder(tmp_path / "one", {"a.rar": b""}) / "a.rar"
    assert "a.rar is neither a folder nor a tar (.tar, .tar.gz, .tgz, .tar.bz2," in refused(file)
    assert refused(file).endswith("; an archive: unpack it, and give the folder")
    for name in ("a.png", "metadata.csv"):
        assert refused(folder(tmp_path / "alone", {name: b""}) / name).endswith("; give its folder")
    zipped = folder(tmp_path / "named", {"a.tar": b"PK\3\4" + bytes(1024)}) / "a.tar"
    with pytest.raises(DataError, match=r"it is a zip: call it \.zip"):
        list(open_source(str(zipped)).members(lambda _: True))
    tar(tmp_path / "both/x.tar", {})
    folder(tmp_path / "both", {"a.png": b""})
    assert "holds both tars (x.tar) and images (a.png)" in refused(tmp_path / "both")
    assert "names no bucket" in refused("s3://")


# What is said of images


def description_of(files: Mapping[str, str], picture: str, planes: tuple[str, ...] = ()) -> Any:
    annotations = Annotations()
    for name, content in files.items():
        add = annotations.add_metadata if annotations.role(name) == "metadata" else annotations.add_sidecar
        add(name, content.encode(), f"x.tar: {name}")
    return annotations.of(picture, dict.fromkeys(planes))


def line(**fields: Any) -> str:
    return json.dumps({"file_name": "a.png", **fields})


def test_metadata_lines() -> None:
    boxes = [{"label": "dog", "box": [0, 1, 2.5, 3]}]
    raw = line(text=" a dog ", label=3, boxes=boxes, map="m/a.png", mask="k/a.png", split="validation", width=7)
    one = description_of({"metadata.jsonl": f"\ufeff{raw}\n\n"}, "a.png")
    assert (one.text, one.label, one.map, one.mask, one.split) == ("a dog", 3, "m/a.png", "k/a.png", "held_out")
    assert one.boxes == (("dog", (0.0, 1.0, 2.5, 3.0)),)
    nothing = description_of({"metadata.jsonl": line(text=None, label=None, boxes=None, map=None)}, "a.png")
    assert (
        nothing == description_of({"metadata.jsonl": line(text="", label="")}, "a.png") == description_of({}, "a.png")
    )


def test_names_in_metadata_are_relative_to_it() -> None:
    annotations = Annotations()
    annotations.add_metadata("train/metadata.jsonl", b'{"file_name": "./x//a.png", "map": "m.png"}', "here")
    assert list(annotations.listed) == ["train/x/a.png"]
    assert annotations.role("train/m.png") == "map"
    assert annotations.role("m.png") == "image"


def test_files_beside_a_picture() -> None:
    files = {"d/v1.2.txt": "of v1.2\n", "d/v1.txt": "of v1", "d/v1.cls": "7", "e/v1.cls": "007"}
    assert description_of(files, "d/v1.2.png").text == "of v1.2"
    assert description_of(files, "d/v1.3.left.png").text == "of v1", "WebDataset's key ends at the first dot"
    assert description_of(files, "d/v1.png").label == 7
    assert description_of(files, "e/v1.png").label == "007"
    assert description_of(files, "v1.png").text is None
    planes = description_of({}, "d/v1.png", ("d/v1.map.png", "d/v1.mask.png"))
    assert (planes.map, planes.mask) == ("d/v1.map.png", "d/v1.mask.png")


def test_a_record_counts_for_more_than_files() -> None:
    files = {"a.txt": "file", "a.cls": "file", "a.json": '{"text": "record", "split": "train"}'}
    one = description_of(files, "a.png")
    assert (one.text, one.label, one.split) == ("record", "file", "train")


def test_files_that_belong_to_no_picture_are_not_even_parsed() -> None:
    assert description_of({"dataset_info.json": "no json", "README.txt": "hello"}, "a.png").text is None


def test_roles() -> None:
    annotations = Annotations()
    names = ["A.PNG", "a.map.png", "a.mask.png", "a.txt", "a.json", "a.cls", "d/metadata.jsonl", "a.heic", "a"]
    roles = ["image", "map", "mask", "sidecar", "sidecar", "sidecar", "metadata", "other", "other"]
    assert [annotations.role(name) for name in names] == roles


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line() + "\n{oops", "x.tar: metadata.jsonl:2 is not JSON"),
        ("[1]", "metadata.jsonl:1 is not a JSON object"),
        ('{"text": "x"}', "metadata.jsonl:1 has no file_name"),
        ('{"file_name": 3}', "metadata.jsonl:1 has no file_name"),
        (line(text=[1, "b"]), 'metadata.jsonl:1: text is [1, "b"]; it must be a string'),
        (line(text=3), "text is 3; it must be a string"),
        (line(label=1.5), "label is 1.5; it must be a string or an integer"),
        (line(label=True), "label is true; it must be a string or an integer"),
        (line(split="0"), "split '0' is not allowed; permitted: train, held_out, validation, test"),
        (line(boxes=[[0, 0, 1, 1]]), 'boxes has [0, 0, 1, 1]; write [{"label": "dog", "box": [x0, y0, x1, y1]}'),
        (line(boxes={"bbox": []}), 'boxes has {"bbox": []}'),
        (line(boxes=[{"label": "dog", "box": [0, 0, 1]}]), "boxes has"),
        (line(boxes=[{"label": "dog", "box": [0, 0, 1, "2"]}]), "boxes has"),
        (line(boxes=[{"box": [0, 0, 1, 2]}]), "boxes has"),
        (line(map=3), "map is 3; it must be a string"),
        (line(text="\ud83d"), "an unpaired surrogate"),
        (f"{line()}\n{line()}", "metadata.jsonl:2 lists a.png a second time, after x.tar: metadata.jsonl:1"),
    ],
)
def test_what_metadata_may_not_say(content: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        description_of({"metadata.jsonl": content}, "a.png")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_files_beside_a_picture_may_not_say() -> None:
    with pytest.raises(DataError, match=r"x.tar: a.json is not JSON"):
        description_of({"a.json": "{"}, "a.png")
    with pytest.raises(DataError, match=r"x.tar: a.json: text is 1"):
        description_of({"a.json": '{"text": 1}'}, "a.png")
    annotations = Annotations()
    annotations.add_sidecar("a.txt", b"\xff", "x.tar: a.txt")
    with pytest.raises(DataError, match=r"x.tar: a.txt is not UTF-8 \(byte 0\)"):
        annotations.of("a.png", {})


def test_class_names_are_sorted_and_of_one_kind() -> None:
    assert class_names({"a": ["dog"], "b": ["cat", "dog"]}, "labels") == ("cat", "dog")
    assert class_names({"a": [10], "b": [9], "c": [-1]}, "labels") == ("-1", "9", "10")
    assert class_names({"a": ["10"], "b": ["9"]}, "labels") == ("9", "10")
    assert class_names({"a": ["10"], "b": ["009"]}, "labels") == ("009", "10")
    with pytest.raises(DataError, match=r'labels mix numbers \(a: 10\) and names \(b: "9"\); use one'):
        class_names({"a": [10], "b": ["9"]}, "labels")


def test_folders_are_labels_where_there_are_several_of_one_level() -> None:
    assert folder_labels(["cat/1.png", "dog/1.png"]) == {"cat/1.png": "cat", "dog/1.png": "dog"}
    assert folder_labels(["images/1.png", "images/2.png"]) == {}
    assert folder_labels(["cat/1.png", "2.png"]) == {}
    assert folder_labels(["cat/1.png", "dog/x/1.png"]) == {"cat/1.png": "cat", "dog/x/1.png": "dog"}
    assert folder_labels(["in/cat/1.png", "in/dog/1.png", "2.png"]) == {"in/cat/1.png": "cat", "in/dog/1.png": "dog"}


# Objects in S3, against a client whose connections break


class Wire:
    """Answers like boto3's client; each body breaks after `reach` bytes, with `error`."""

    meta: Any = None

    def __init__(self, data: bytes, reach: int, error: Exception | None) -> None:
        self.data, self.reach, self.error = data, reach, error
        self.asked: list[str] = []

    def get_object(self, *, IfMatch: str, Range: str = "bytes=0-", **_: Any) -> dict[str, Any]:
        assert IfMatch == '"tag"'
        self.asked.append(Range)
        start = int(Range.removeprefix("bytes=").rstrip("-"))
        return {"Body": Body(self.data[start : start + self.reach], self.error)}


class Body(io.BytesIO):
    def __init__(self, data: bytes, error: Exception | None) -> None:
        super().__init__(data)
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data and self.error is not None:
            raise self.error
        return data


def drained(wire: Wire, size: int) -> bytes:
    entry = {"Key": "x.tar", "Size": size, "ETag": '"tag"'}
    stream = ObjectStream(wire, "bucket", entry, pause=0)
    return b"".join(iter(lambda: stream.read(300), b""))


@pytest.mark.parametrize(
    "error", [ConnectionResetError("gone"), IncompleteReadError(actual_bytes=1, expected_bytes=2), None]
)
def test_a_broken_stream_is_taken_up_where_it_broke(error: Exception | None) -> None:
    data = os.urandom(2500)
    wire = Wire(data, 1000, error)
    assert drained(wire, 2500) == data
    assert wire.asked == ["bytes=0-", "bytes=1000-", "bytes=2000-"]


def test_a_stream_that_always_breaks_at_one_place_is_given_up() -> None:
    wire = Wire(b"1" * 1000, 1000, ConnectionResetError("gone"))
    with pytest.raises(DataError, match=r"s3://bucket/x.tar breaks off at byte 1,000 of 2,500, 6 times"):
        drained(wire, 2500)
    assert len(wire.asked) == 1 + object_storage.RESUMES


def test_a_stream_that_is_refused_is_not_tried_again() -> None:
    answer = {"Error": {"Code": "PreconditionFailed"}, "ResponseMetadata": {"HTTPStatusCode": 412}}
    wire = Wire(b"1" * 1000, 1000, ClientError(answer, "GetObject"))
    with pytest.raises(DataError, match=r"x\.tar was replaced while it was read; run the command again"):
        drained(wire, 2500)
    assert len(wire.asked) == 1
