"""Images that arrive from the device later than the step that began to decode them, as on a GPU."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from services.worker import decoder
from services.worker.decoder import Copy
from services.worker.device_faults import OutOfMemory
from services.worker.engine import Engine
from tests.unit.services.worker.test_engine import MIX, add, develop, image, step


@pytest.fixture
def engine(tiny_release: Path) -> Engine[object]:
    return Engine[object](tiny_release, rows=8, device="cpu")


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Copies are on their way until something waits for them, which is counted."""
    counts: Counter[str] = Counter()
    arrived: set[int] = set()

    def wait(copy: Copy) -> None:
        counts["waits"] += 1
        arrived.add(id(copy))

    monkeypatch.setattr(Copy, "is_ready", lambda copy: id(copy) in arrived)
    monkeypatch.setattr(Copy, "wait", wait)
    return counts


def test_images_that_arrive_late_have_the_same_bytes(tiny_release: Path, late: Counter[str]) -> None:
    found = develop(Engine[object](tiny_release, rows=8, device="cpu"), MIX)
    assert late["waits"] > 0
    with pytest.MonkeyPatch.context() as context:
        context.setattr(Copy, "is_ready", lambda copy: True)
        assert develop(Engine[object](tiny_release, rows=8, device="cpu"), MIX) == found


def test_no_step_waits_while_there_is_something_to_sample(engine: Engine[object], late: Counter[str]) -> None:
    for seed in range(4):
        add(engine, "owner", image(seed, steps=1, guidance=1.0))
    add(engine, "owner", image(9, steps=6, guidance=1.0))
    for _ in range(5):
        assert not step(engine)
    assert late["waits"] == 0
    assert engine.busy
    done: dict[int, bytes] = {}
    while engine.busy:
        done |= step(engine)
    assert list(done) == [0, 1, 2, 3, 9]


def test_few_groups_are_on_their_way_at_a_time(engine: Engine[object], late: Counter[str]) -> None:
    for seed in range(40):
        add(engine, "owner", image(seed, steps=1, guidance=1.0))
    add(engine, "owner", image(99, steps=30, guidance=1.0))
    done: dict[int, bytes] = {}
    while engine.busy:
        done |= step(engine)
        assert len(engine.pack._decoder._groups) <= decoder.MOST_GROUPS
    assert list(done) == [*range(40), 99]


def test_images_on_their_way_are_removed_with_their_owner(engine: Engine[object], late: Counter[str]) -> None:
    mine, theirs = object(), object()
    for seed in range(2):
        add(engine, mine, image(seed, steps=1))
        add(engine, theirs, image(seed + 10, steps=1))
    add(engine, theirs, image(30, steps=9))
    engine.step()
    assert set(engine.owners()) == {mine, theirs}
    engine.remove(mine)
    assert engine.owners() == [theirs]
    done: dict[int, bytes] = {}
    while engine.busy:
        done |= step(engine)
    assert list(done) == [10, 11, 30]


def test_images_that_have_arrived_are_not_lost_when_the_next_group_has_no_memory(
    engine: Engine[object], late: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the worker would hold their shard for ever, because nobody settles them."""
    for seed in range(12):
        add(engine, seed, image(seed, steps=1, guidance=1.0))
    add(engine, 99, image(99, steps=30, guidance=1.0))
    while len(engine.pack._decoder._groups) < decoder.MOST_GROUPS:
        engine.step()

    def fail(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.model.autoencoder, "decode", fail)

    def step_on() -> None:
        for _ in range(20):
            engine.step()

    with pytest.raises(OutOfMemory):
        step_on()
    assert late["waits"] > 0
    assert set(engine.owners()) == {*range(12), 99}
