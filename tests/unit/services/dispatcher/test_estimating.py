"""When a tenant's work would be done beside that of others."""

import pytest

from services.dispatcher.estimating import finish_time, sum_items
from services.dispatcher.sharding import ItemCost, PlannedItem
from services.job_queue.estimates import Backlog


def backlog(seconds: float, weight: float = 1.0) -> Backlog:
    return Backlog(weight, seconds, 0)


@pytest.mark.parametrize(
    ("own", "others", "seconds"),
    [
        (backlog(100), [], 10),
        (backlog(0), [backlog(1_000)], 0),
        (backlog(100), [backlog(1_000)], 20),
        (backlog(100), [backlog(40)], 14),  # 8 s at half the rate, then 6 s alone
        (backlog(100, 3), [backlog(1_000)], 100 * 4 / 3 / 10),
        (backlog(100), [backlog(10), backlog(20), backlog(5_000)], 23),
    ],
)
def test_tenants_share_the_rate_by_weight(own: Backlog, others: list[Backlog], seconds: float) -> None:
    assert finish_time(own, others, rate=10.0) == pytest.approx(seconds)


def test_lines_that_are_not_valid_are_counted_and_the_first_are_told() -> None:
    lines = [
        PlannedItem(number, ItemCost(4, 1.5, number), f"line {number}: bad" if number % 2 else None)
        for number in range(40)
    ]
    found, extent = sum_items(lines, per_item=3)
    assert (extent.area, extent.depth, extent.resized) == (90.0, 38, 1.0)
    own = [PlannedItem(0, ItemCost(4, 1.0, 1)), PlannedItem(1, ItemCost(12, 3.0, 1))]
    assert sum_items(own, per_item=3)[1].resized == 0.75
    assert (found["images"], found["evaluations"], found["invalid_items"]) == (60, 240, 20)
    assert found["mistakes"][0] == "line 1: bad"
    assert len(found["mistakes"]) == 10
