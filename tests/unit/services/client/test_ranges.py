"""The ranges of unseen images."""

import itertools
import random

from services.client.ranges import remove


def test_indices_leave_gaps() -> None:
    assert remove([(0, 10)], [3]) == [(0, 3), (4, 10)]
    assert remove([(0, 10)], [0, 9]) == [(1, 9)]
    assert remove([(0, 2)], [1, 0]) == []
    assert remove([(0, 2), (5, 7)], [6, 1]) == [(0, 1), (5, 6)]
    assert remove([(0, 2), (5, 7)], []) == [(0, 2), (5, 7)]


def test_any_order_leaves_what_a_set_leaves() -> None:
    random.seed(7)
    for _ in range(200):
        order = random.sample(range(40), 40)
        ranges, left = [(0, 40)], set(range(40))
        while order:
            batch = [order.pop() for _ in range(min(len(order), random.randint(1, 6)))]
            ranges, left = remove(ranges, batch), left - set(batch)
            assert [index for start, stop in ranges for index in range(start, stop)] == sorted(left)
            assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
