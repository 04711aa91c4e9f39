"""Images that are stored at about the same time are checked by one listing, and a single one at once."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from services.worker import verifier
from services.worker.verifier import Verifier


def make_shard(storing: int) -> Any:
    return SimpleNamespace(storing=storing)


def written(key: str, shard: Any) -> Any:
    return SimpleNamespace(upload=SimpleNamespace(shard=shard), output=SimpleNamespace(key=key), content="content")


def collect(groups: list[list[str]], images: int) -> None:
    deadline = time.monotonic() + 30
    while sum(map(len, groups)) < images:
        assert time.monotonic() < deadline, groups
        time.sleep(0.001)


def make_verifier(monkeypatch: pytest.MonkeyPatch, groups: list[list[str]], coming: list[bool]) -> Verifier:
    monkeypatch.setattr(verifier, "find_kept", lambda store, contents: set(contents))
    return Verifier(
        store=None,  # type: ignore[arg-type]
        on_kept=lambda kept: groups.append([str(one.output.key) for one in kept]),
        on_doubt=lambda one: pytest.fail(str(one.output.key)),
        is_more_coming=lambda: coming[0],
    )


@pytest.mark.parametrize("more_is_coming", [False, True])
def test_a_check_waits_for_images_that_are_being_stored_and_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch, more_is_coming: bool
) -> None:
    coming = [more_is_coming]
    groups: list[list[str]] = []
    monkeypatch.setattr(verifier, "GATHER_S", 3600.0)
    checker, shard = make_verifier(monkeypatch, groups, coming), make_shard(storing=0)
    checker.start()
    checker.add(written("a", shard))
    if more_is_coming:
        checker.add(written("b", shard))
        coming[0] = False
    collect(groups, 1 + more_is_coming)
    checker.stop()
    assert groups == ([["a", "b"]] if more_is_coming else [["a"]])


def test_a_check_waits_longest_while_every_shard_in_it_has_images_that_are_being_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups: list[list[str]] = []
    monkeypatch.setattr(verifier, "GATHER_S", 0.0)
    monkeypatch.setattr(verifier, "SHARD_S", 3600.0)
    coming = [True]
    checker, large, small = make_verifier(monkeypatch, groups, coming), make_shard(storing=1), make_shard(storing=0)
    checker.start()
    checker.add(written("a", large))
    checker.add(written("b", large))
    large.storing = 0
    collect(groups, 2)
    large.storing = 1
    checker.add(written("c", large))
    checker.add(written("d", small))
    collect(groups, 4)
    coming[0] = False
    checker.stop()
    assert groups == [["a", "b"], ["c", "d"]]
