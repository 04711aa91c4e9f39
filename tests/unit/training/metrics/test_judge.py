import pytest

from training.data.image_set import ImageSet
from training.metrics.classifier import Classifier
from training.metrics.judge import DigitJudge, condition_accuracy


def test_the_judge_recognises_what_it_was_not_shown(bars: ImageSet) -> None:
    train, rest = bars.rows("train"), bars.rows("held_out")
    judge = DigitJudge(bars.pixels(train), bars.labels(train))
    held_out, labels = bars.pixels(rest), bars.labels(rest)
    assert judge.accuracy(held_out, labels) == 1.0
    assert judge.accuracy(held_out, (labels + 1) % 3) == 0.0
    assert condition_accuracy(judge, held_out, [int(labels[0])] * len(labels)) == pytest.approx(1 / 3)


def test_two_judges_of_digits_agree_with_the_labels_and_are_not_wrong_alike(
    digits: ImageSet, digits_classifier: Classifier
) -> None:
    train, rest = digits.rows("train"), digits.rows("held_out")
    held_out, labels = digits.pixels(rest), digits.labels(rest)
    judges = DigitJudge(digits.pixels(train), digits.labels(train)), digits_classifier
    assert all(condition_accuracy(judge, held_out, labels.tolist()) > 0.98 for judge in judges)
    wrong = [judge.predict(held_out) != labels for judge in judges]
    assert not (wrong[0] & wrong[1]).all()
