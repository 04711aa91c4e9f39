"""Schedules that Kubeflow would accept and never run, or reject hours later, are refused before they are sent."""

import pytest

from kfp_pipelines.running.cluster import ClusterError
from kfp_pipelines.running.cron import check_cron


@pytest.mark.parametrize(
    "cron",
    [
        "0 0 3 * * *", "*/10 * * * * *", "0 0-30/5 8-17 * jan,JUL mon-fri", "0 0 0 1,15 */3 ?", "59 59 23 31 12 6",
        "5/15 0 0 29 2 *", "0 0 3 30 2,4 *", "  0  0 3 * *\t* ",
    ],
)  # fmt: skip
def test_a_schedule_that_runs_is_permitted(cron: str) -> None:
    check_cron(cron)


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("60 0 3 * * *", "second '60'; permitted: 0 to 59"),
        ("0 60 3 * * *", "minute '60'; permitted: 0 to 59"),
        ("0 0 24 * * *", "hour '24'; permitted: 0 to 23"),
        ("0 0 3 0 * *", "day '0'; permitted: 1 to 31"),
        ("0 0 3 32 * *", "day '32'; permitted: 1 to 31"),
        ("0 0 3 * 13 *", "month '13'; permitted: 1 to 12 or jan to dec"),
        ("0 0 3 * * 7", "weekday '7'; permitted: 0 to 6 or sun to sat"),
        ("0 0 3 * * 1,7", "weekday '1,7'"),
        ("0 30-10 3 * * *", "minute '30-10'"),
        ("0 */0 3 * * *", "minute '*/0'"),
        ("0 1-2-3 3 * * *", "minute '1-2-3'"),
        ("0 -5 3 * * *", "minute '-5'"),
        ("0 0 3 L * *", "day 'L'"),
        ("0 0 3 * * mon#2", "weekday 'mon#2'"),
        ("0 1,, 3 * * *", "minute '1,,'"),
        ("0 \u0661 3 * * *", "minute"),
        ("0 0 3 30 2 *", "month 2 has no day 30"),
        ("0 0 3 31 feb,4,jun,9-9,11 *", "has no day 31"),
        ("0 3 * * *", "permitted: six fields, seconds first"),
        ("0 0 3 * * * *", "permitted: six fields, seconds first"),
        ("@daily", "permitted: six fields, seconds first"),
        ("", "permitted: six fields, seconds first"),
    ],
)
def test_a_schedule_that_never_runs_is_refused_by_its_field(cron: str, words: str) -> None:
    with pytest.raises(ClusterError) as caught:
        check_cron(cron)
    assert str(caught.value).startswith(f"cron: {cron!r} is not allowed")
    assert words in str(caught.value)
