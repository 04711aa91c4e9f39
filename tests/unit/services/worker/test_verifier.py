"""Images that are stored at about the same time are checked by one listing, and a single one at once."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from services.worker import verifier
from services.worker.verifier import Verifier


def written(key: str) -> Any:
    return SimpleNamespace(output=SimpleNamespace(key=key), content="content")


def collect(groups: list[list[str]], images: int) -> None:
    deadline = time.monotonic() + 30
    while sum(map(len, groups)) < images:
        assert time.monotonic() < deadline, groups
        time.sleep(0.001)


@pytest.mark.parametrize("more_is_coming", [False, True])
def test_a_check_waits_for_images_that_are_being_stored_and_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch, more_is_coming: bool
) -> None:
    coming = [more_is_coming]
    groups: list[list[str]] = []
    monkeypatch.setattr(verifier, "GATHER_S", 3600.0)
    monkeypatch.setattr(verifier, "find_kept", lambda store, contents: set(contents))
    checker = Verifier(
        store=None,  # type: ignore[arg-type]
        on_kept=lambda kept: groups.append([str(one.output.key) for one in kept]),
        on_doubt=lambda one: pytest.fail(str(one.output.key)),
        is_more_coming=lambda: coming[0],
    )
    checker.start()
    checker.add(written("a"))
    if more_is_coming:
        checker.add(written("b"))
        coming[0] = False
    collect(groups, 1 + more_is_coming)
    checker.stop()
    assert groups == ([["a", "b"]] if more_is_coming else [["a"]])
