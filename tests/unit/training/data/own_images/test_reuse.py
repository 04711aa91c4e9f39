"""A set is prepared once, until its source or its settings change."""

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.own_images import noise_png, write_folder, write_tars
from training.data.image_set import DataError, ImageSet
from training.data.own_images import decoding
from training.data.own_images import prepare as preparation
from training.data.own_images.prepare import Settings, prepare_once, source_stamp


def test_a_set_is_made_once_until_its_source_or_the_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_folder(tmp_path / "source", {f"{n}.png": noise_png(n) for n in range(5)})
    decoded: list[int] = []
    decode = decoding.decode

    def count_and_decode(data: bytes, **options: Any) -> decoding.DecodedImage:
        decoded.append(1)
        return decode(data, **options)

    monkeypatch.setattr(decoding, "decode", count_and_decode)

    def again(**options: Any) -> int:
        decoded.clear()
        settings = Settings(**{"image_size": 8, **options})
        made = prepare_once(source, tmp_path / "sets/own", settings, console=Console(file=io.StringIO()))
        assert made.image_size == settings.image_size
        return len(decoded)

    assert [again(), again()] == [5, 0]
    write_folder(tmp_path / "source", {"5.png": noise_png(5)})
    assert [again(), again()] == [6, 0], "an image came"
    (tmp_path / "source/5.png").unlink()
    assert [again(), again()] == [5, 0], "an image went"
    write_folder(tmp_path / "source", {"4.png": noise_png(6)})
    assert [again(), again()] == [5, 0], "an image changed"
    assert [again(image_size=10), again(image_size=10)] == [5, 0]
    assert [again(held_out=0.5), again(held_out=0.5)] == [5, 0]
    (tmp_path / "sets/own/images.npy").unlink()
    assert [again(held_out=0.5), again(held_out=0.5)] == [5, 0], "a damaged set is made again"
    note = json.loads((tmp_path / "sets/own/source.json").read_text())
    assert (note["source"], note["held_out"]) == (source, 0.5)


def test_the_stamp_of_tars(tmp_path: Path) -> None:
    source = write_tars(tmp_path / "tars", {"a.png": noise_png(1)})
    stamp = source_stamp(source, Settings(8))
    assert stamp == source_stamp(source, Settings(8))
    assert stamp != source_stamp(source, Settings(9))
    (tmp_path / "tars/metadata.jsonl").write_bytes(b"")
    assert stamp != source_stamp(source, Settings(8))
    with pytest.raises(DataError, match="does not exist"):
        source_stamp(str(tmp_path / "nowhere"), Settings(8))


def test_an_interrupted_preparation_is_made_good(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", {"a.png": noise_png(1)})
    write_folder(tmp_path / "sets/own.scratch", {"pictures": b"left over"})
    write_folder(tmp_path / "sets/own", {"images.npy": b"half"})
    made = prepare_once(source, tmp_path / "sets/own", Settings(8), console=Console(file=io.StringIO()))
    assert made.description.count == 1
    assert not (tmp_path / "sets/own.scratch").exists()


def test_of_two_at_once_one_prepares_and_the_other_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "source", {"a.png": noise_png(1)})
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
        made.append(prepare_once(source, tmp_path / "sets/own", Settings(8), console=console))

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
    source = write_folder(tmp_path / "source", {"a.png": noise_png(1)})
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data.prepared: .* cannot be written"):
        prepare_once(source, tmp_path / "file/set", Settings(8))
