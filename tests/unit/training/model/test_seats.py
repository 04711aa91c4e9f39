import pytest
import torch

from training.model.latent_diffusion import Prepared
from training.model.seats import Seats


def conditions(value: float) -> Prepared:
    return Prepared(torch.full((2, 3), value), None, torch.full((4,), -value))


def values(seats: Seats) -> list[float]:
    assert seats.conditions is not None
    assert seats.conditions.keys_values is not None
    assert seats.conditions.embedding is not None
    assert seats.conditions.maps is None
    assert torch.equal(seats.conditions.embedding[:, 0], -seats.conditions.keys_values[:, 0, 0])
    return [float(value) for value in seats.conditions.keys_values[:, 0, 0]]


def test_conditions_are_copied_into_the_first_free_rows() -> None:
    seats = Seats(4)
    assert seats.conditions is None
    assert seats.assign([conditions(1), conditions(2)]) == [0, 1]
    assert values(seats) == [1, 2, 0, 0]


def test_conditions_that_are_in_a_row_keep_it_in_any_order() -> None:
    a, b, c = conditions(1), conditions(2), conditions(3)
    seats = Seats(3)
    assert seats.assign([a, b, c]) == [0, 1, 2]
    assert seats.assign([c, b, a]) == [2, 1, 0]
    assert seats.assign([c]) == [2]
    assert seats.assign([a, b, c]) == [0, 1, 2]
    assert values(seats) == [1, 2, 3]


def test_new_conditions_get_rows_only_after_the_others_kept_theirs() -> None:
    a, b, new = conditions(1), conditions(2), conditions(3)
    seats = Seats(3)
    seats.assign([a, b])
    assert seats.assign([new, a, b]) == [2, 0, 1]
    assert seats.assign([new, b]) == [2, 1]
    assert seats.assign([conditions(4), b, new]) == [0, 1, 2]
    assert values(seats) == [4, 2, 3]


def test_one_null_condition_may_have_several_rows() -> None:
    null, a, b = conditions(0), conditions(1), conditions(2)
    seats = Seats(4)
    assert seats.assign([a, b, null, null]) == [0, 1, 2, 3]
    assert seats.assign([b, null]) == [1, 2]
    assert seats.assign([a, b, null, null]) == [0, 1, 2, 3]


def test_only_rows_whose_conditions_change_are_written() -> None:
    a, b = conditions(1), conditions(2)
    seats = Seats(2)
    seats.assign([a, b])
    assert seats.conditions is not None
    assert seats.conditions.keys_values is not None
    seats.conditions.keys_values.fill_(9)
    seats.assign([a, conditions(3)])
    assert [float(value) for value in seats.conditions.keys_values[:, 0, 0]] == [9, 3]


def test_more_conditions_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows are wanted; permitted: at most 2"):
        Seats(2).assign([conditions(1), conditions(2), conditions(3)])
