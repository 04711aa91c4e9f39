"""A set whose images have only some of the classes that it is prepared for."""

from collections.abc import Callable

from tests.support.own_images import noise_png, preparation_error
from training.data.image_set import ImageSet

FILES = {f"{kind}/{number}.png": noise_png(number) for number, kind in enumerate(["cat", "dog"] * 3)}


def test_the_classes_and_their_order_are_those_given(make: Callable[..., ImageSet]) -> None:
    made = make(FILES, classes=("zebra", "dog", "cat"))
    assert made.description.classes == ("zebra", "dog", "cat")
    assert [record["label"] for record in made.records] == [2, 2, 2, 1, 1, 1]
    assert list(made.used_classes) == [1, 2]
    assert list(make(FILES).used_classes) == [0, 1]


def test_other_labels_are_told(make: Callable[..., ImageSet]) -> None:
    message = preparation_error(make, FILES, classes=("zebra", "dog"))
    assert message == "data.classes: cat is not among them, and images have such a label"
