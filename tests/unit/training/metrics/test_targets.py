from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from training.data.image_set import ImageSet
from training.metrics import targets
from training.metrics.targets import TURNS, Targets


def with_records(bars: ImageSet, records: Sequence[dict[str, Any]]) -> ImageSet:
    return replace(bars, records=records)


def captions(bars: ImageSet, number: int) -> ImageSet:
    """Every caption says "a bar", and which of `number` words; each image has a label of three."""
    return with_records(
        bars, [{"label": row % 3, "text": f"A bar, word{row % number}"} for row in range(len(bars.images))]
    )


def test_labels_or_words_whichever_are_more_and_turns_where_there_are_neither(bars: ImageSet) -> None:
    assert targets.choose(bars) == Targets("label", ("0", "1", "2"))
    assert targets.choose(captions(bars, 3)).kind == "label"
    assert targets.choose(captions(bars, 6)) == Targets("words", tuple(f"word{i}" for i in range(6)))
    assert targets.choose(with_records(bars, [{}] * 48)) == Targets("turn", TURNS)
    one_class = with_records(bars, [{"label": 1, "text": "a bar"}] * 48)
    assert targets.choose(one_class).kind == "turn"
    nameless = replace(bars, description=replace(bars.description, classes=()))
    assert targets.choose(nameless).kind == "words"
    gaps = with_records(bars, [{"label": 0, "text": "left"}, {"label": 1, "text": "right"}] * 23 + [{}, {}])
    assert targets.choose(gaps).kind == "turn"


def test_words_that_are_rare_or_everywhere_are_left_out(bars: ImageSet) -> None:
    texts = ["bar up"] * 20 + ["bar down"] * 15 + ["bar sideways"] + ["bar up"] * 12
    found = targets.choose(with_records(bars, [{"text": text} for text in texts]))
    assert found == Targets("words", ("up", "down"))


def test_what_is_to_be_found(bars: ImageSet) -> None:
    generator, rows = torch.Generator().manual_seed(0), torch.tensor([0, 4, 2, 47])
    pixels, wanted = targets.examples(targets.choose(bars), bars, rows, generator)
    assert torch.equal(pixels, bars.pixels(rows.numpy()))
    assert wanted.tolist() == [0, 1, 2, 2]
    named = captions(bars, 6)
    _, wanted = targets.examples(targets.choose(named), named, rows, generator)
    assert wanted.argmax(1).tolist() == [0, 4, 2, 5]
    assert wanted.sum(1).tolist() == [1, 1, 1, 1]


def test_turned_images_turn_back(bars: ImageSet) -> None:
    generator, rows = torch.Generator().manual_seed(0), torch.arange(40)
    pixels, turns = targets.examples(Targets("turn", TURNS), bars, rows, generator)
    assert set(turns.tolist()) == {0, 1, 2, 3}
    back = [torch.rot90(image, -int(turn), (1, 2)) for image, turn in zip(pixels, turns, strict=True)]
    assert torch.equal(torch.stack(back), bars.pixels(rows.numpy()))


def test_accuracy_and_chance() -> None:
    label, words = Targets("label", ("a", "b")), Targets("words", ("a", "b"))
    outputs = torch.tensor([[2.0, 1.0], [-1.0, 3.0], [1.5, 2.0]])
    wanted = torch.tensor([0, 1, 0])
    assert label.accuracy(outputs, wanted) == pytest.approx(2 / 3)
    assert label.chance(wanted) == pytest.approx(2 / 3)
    assert label.loss(outputs, wanted) == pytest.approx(float(-outputs.log_softmax(1)[range(3), wanted].mean()))
    wanted = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    assert words.accuracy(outputs, wanted) == pytest.approx(4 / 6)
    assert words.chance(wanted) == pytest.approx(2 / 3)
    log_odds = torch.where(wanted == 1, outputs, -outputs)
    assert words.loss(outputs, wanted) == pytest.approx(float(torch.nn.functional.softplus(-log_odds).mean()))
