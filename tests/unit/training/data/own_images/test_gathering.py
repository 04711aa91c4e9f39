"""Threads decode a bounded number of images at once, and progress is reported."""

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.own_images import noise_png, write_folder, write_tars
from training.data.image_set import ImageSet
from training.data.own_images import decoding, gathering
from training.data.own_images.report import PreparationProgress
from training.data.own_images.sources import open_source


def test_few_pictures_are_in_memory_at_once(
    make: Callable[..., ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given more images than the window holds, then an image is only read once an earlier one is on disk."""
    source = write_tars(tmp_path / "tars", {f"{n:03}.png": noise_png(n) for n in range(100)})
    waiting, most, lock = 0, 0, threading.Lock()
    submitted, kept = gathering.Gathered._check_unique, gathering.Gathered._store

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

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(gathering.Gathered, "_check_unique", first)
    monkeypatch.setattr(gathering.Gathered, "_store", keep)
    assert make(source).description.count == 100
    assert most == 2 * gathering.AHEAD
    assert waiting == 0


def test_an_error_of_the_program_is_not_taken_for_a_bad_picture(
    make: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(decoding, "decode", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make({f"{n}.png": noise_png(n) for n in range(30)})
    assert not list(tmp_path.glob("set-*"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_a_log_gets_lines_and_a_terminal_a_bar(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path / "source", {"a.png": noise_png(1)}))
    source.position = source.total // 2
    log = PreparationProgress(source, Console(file=io.StringIO()))
    with log.show():
        log(10, 1)
        assert capsys.readouterr().out == ""
        log.next = log.began = log.began - 10
        log(40, 2)
        log(41, 2)
    out = capsys.readouterr().out
    assert out.startswith("40 images (50 %), 2 bad  4 a second, 10 s, 10 s to go")
    assert out.count("\n") == 1
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    bar = PreparationProgress(source, terminal)
    with bar.show():
        bar(40, 2)
    assert "40 images, 2 bad" in terminal.file.getvalue()  # type: ignore[attr-defined]
