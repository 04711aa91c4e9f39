"""Where archives end: by bytes and by images, the same whenever they are cut."""

import io
import json

import pytest
from pyarrow import parquet

from services.dispatcher import archives
from services.dispatcher.archive_formats import ParquetArchive, image_line, sample_size
from services.dispatcher.archives import Archive, archive_revision, cut_archives
from services.job_queue.outputs import Output
from services.job_queue.plan import Item
from services.storage.tar import END


def image(index: int, size: int) -> Output:
    return Output(index, index // 2, index, f"p/images/{index:08d}.png", f"{index:064d}", size, "profile")


def cut(sizes: list[int], limit: int) -> list[Archive]:
    return list(cut_archives([image(i, size) for i, size in enumerate(sizes)], lambda number: {"id": "x"}, limit))


def test_archives_end_before_their_limit() -> None:
    sizes = [100, 900, 5000, 20, 20, 20, 20, 3000]
    found = cut(sizes, 6000)
    assert [[one.index for one in archive.images] for archive in found] == [[0, 1], [2], [3, 4], [5, 6], [7]]
    for archive in found:
        samples = sum(sample_size(one, image_line(one, {"id": "x"})) for one in archive.images)
        assert archive.size == samples + len(END)


def test_an_image_larger_than_an_archive_has_its_own() -> None:
    assert [[one.index for one in archive.images] for archive in cut([10, 10**7, 10], 10**6)] == [[0], [1], [2]]


def test_archives_end_after_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_IMAGES", 3)
    assert [len(archive.images) for archive in cut([1] * 7, 10**9)] == [3, 3, 1]
    assert cut([], 10**9) == []


def test_the_mark_of_an_archive_tells_its_contents() -> None:
    marks = {cut(sizes, 10**6)[0].digest.hexdigest() for sizes in ([1, 2], [1, 2, 3])} | {
        next(cut_archives([image(0, 1), image(1, 2)], lambda n: {"id": "y"}, 10**6)).digest.hexdigest()
    }
    assert len(marks) == 3
    assert cut([1, 2], 10**6)[0].digest.hexdigest() in marks


@pytest.mark.parametrize(
    ("key", "revision"),
    [
        ("a/archive-00000.tar", 1), ("a/archive-r12-00003.tar", 12), ("a/archive-r2-00003.parquet", 2),
        ("a/archive-x.tar", 0), ("a/outputs-00000.jsonl", 0),
    ],
)  # fmt: skip
def test_a_key_tells_the_revision(key: str, revision: int) -> None:
    assert archive_revision(key) == revision


def test_a_parquet_archive_has_a_row_for_each_image_and_groups_of_bounded_size() -> None:
    pieces: list[bytes] = []
    archive = ParquetArchive(pieces.append)
    bodies = [bytes([index]) * (3 * 2**20 if index < 5 else 10) for index in range(130)]
    items: list[Item] = [
        {"id": "ключ", "class_label": 3, "caption": "a cat", "metadata": {"sku": "A"}},
        {"class_label": "three"},
    ]
    for index, body in enumerate(bodies):
        archive.add(image(index, len(body)), body, items[index % 2])
    archive.close()
    file = parquet.ParquetFile(io.BytesIO(b"".join(pieces)))
    groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert groups == [2, 2, 100, 26]
    rows = file.read().to_pylist()
    assert [row["image"] for row in rows] == [
        {"bytes": body, "path": f"{index:08d}.png"} for index, body in enumerate(bodies)
    ]
    assert {name: rows[2][name] for name in ("index", "item", "seed", "id", "class_label", "caption")} == {
        "index": 2, "item": 1, "seed": 2, "id": "ключ", "class_label": "3", "caption": "a cat",
    }  # fmt: skip
    assert [rows[3][name] for name in ("id", "class_label", "caption")] == [None, "three", None]
    assert json.loads(rows[2]["json"])["metadata"] == {"sku": "A"}
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert list(features) == file.schema_arrow.names
