"""A comparison measures how well each sample obeys its request, whatever the condition."""

from dataclasses import replace

import pytest
import torch

from training.data import shapes
from training.data.batches import row_generator
from training.data.conditions import Requests
from training.data.image_set import ImageSet
from training.data.rows import read_image
from training.evaluation import obedience
from training.evaluation.second_stage import EvaluationRequests
from training.metrics.pixels import MOST

COUNT = 40


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return shapes.prepare(tmp_path_factory.mktemp("scenes"), count=COUNT)


def requested(types: dict[str, str], images: ImageSet) -> EvaluationRequests:
    """The requests that describe the images, in their order."""
    requests = Requests(types, scale=4, masks="boxes")
    examples = [read_image(images, row, images.records[row]) for row in range(COUNT)]
    return EvaluationRequests([requests(one, row_generator(0, 0, i)) for i, one in enumerate(examples)], range(COUNT))


@pytest.mark.parametrize(
    ("kind", "name", "perfect", "wrong"),
    [
        ("class", "class_accuracy", 1.0, 0.3),
        ("text", "caption_accuracy", 1.0, 0.1),
        ("layout", "box_overlap", 0.9, 0.1),
        ("layout_map", "box_overlap", 0.9, 0.1),
        ("semantic_map", "map_agreement", 0.97, 0.85),
        ("low_resolution", "psnr", MOST, 20.0),
        ("masked_image", "psnr", MOST, 20.0),
    ],
)
def test_the_images_that_requests_describe_obey_and_others_do_not(
    kind: str, name: str, perfect: float, wrong: float, scenes: ImageSet
) -> None:
    found = obedience.find({"field": kind}, scenes, requested({"field": kind}, scenes))
    assert found is not None
    assert found.name == name
    originals = scenes.pixels(range(COUNT))
    values, others = found.measure(originals), found.measure(originals.roll(1, 0))
    assert values.shape == others.shape == (COUNT,)
    assert values.mean() >= perfect
    assert others.mean() <= wrong


def test_each_sample_counts_for_itself(scenes: ImageSet) -> None:
    types = {"field": "layout"}
    found = obedience.find(types, scenes, requested(types, scenes))
    assert found is not None
    images = scenes.pixels(range(COUNT))
    images[3] = images[4]
    before, after = found.measure(scenes.pixels(range(COUNT))), found.measure(images)
    assert after[3] < 0.3 < before[3]
    assert torch.equal(before[torch.arange(COUNT) != 3], after[torch.arange(COUNT) != 3])


def test_the_first_condition_that_can_be_judged_counts(scenes: ImageSet) -> None:
    types = {"vector": "embedding", "layout": "layout"}
    made = requested({"layout": "layout"}, scenes)
    both = EvaluationRequests([{**one, "vector": [0.0]} for one in made.requests], made.rows)
    found = obedience.find(types, scenes, both)
    assert found is not None
    assert found.name == "box_overlap"
    assert obedience.find({"vector": "embedding"}, scenes, both) is None


def test_nothing_is_measured_where_a_request_lacks_the_condition(scenes: ImageSet) -> None:
    made = requested({"field": "text"}, scenes)
    some = EvaluationRequests([{"field": None}, *made.requests[1:]], made.rows)
    assert obedience.find({"field": "text"}, scenes, some) is None


def test_boxes_of_other_images_cannot_be_read_back(scenes: ImageSet) -> None:
    other = replace(scenes, description=replace(scenes.description, box_classes=("cat", "dog")))
    types = {"field": "layout"}
    assert obedience.find(types, other, requested(types, scenes)) is None
