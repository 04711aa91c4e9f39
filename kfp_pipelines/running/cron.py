"""The schedules of recurring runs, in the grammar of the cron library that Kubeflow's controller uses.

The API server accepts any text. The controller refuses a wrong one later, where nobody looks.
"""

import re
from calendar import monthrange

from kfp_pipelines.running.cluster import ClusterError

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
FIELDS: dict[str, tuple[int, int, list[str]]] = {  # the least value, the greatest, and the names from the least on
    "second": (0, 59, []),
    "minute": (0, 59, []),
    "hour": (0, 23, []),
    "day": (1, 31, []),
    "month": (1, 12, MONTHS),
    "weekday": (0, 6, DAYS),
}
PART = re.compile(r"(?P<first>[*?]|[0-9a-z]+)(-(?P<last>[0-9a-z]+))?(/(?P<step>[0-9]+))?", re.ASCII)
LEAP_YEAR = 2028


def check_cron(cron: str) -> None:
    """Raise ClusterError unless a schedule has six fields, seconds first, and runs: `0 0 3 * * *`."""
    fields = cron.split()
    if len(fields) != len(FIELDS):
        raise _refused(cron, "; permitted: six fields, seconds first: 0 0 3 * * *")
    values = {name: _read(cron, name, field) for name, field in zip(FIELDS, fields, strict=True)}
    days, months = values["day"], values["month"]
    if fields[5] in ("*", "?") and all(min(days) > monthrange(LEAP_YEAR, month)[1] for month in months):
        raise _refused(cron, f": month {', '.join(map(str, sorted(months)))} has no day {min(days)}")


def _read(cron: str, name: str, field: str) -> set[int]:
    """Return the values of a field."""
    found = set[int]()
    for part in field.split(","):
        values = _values(name, part.lower())
        if not values:
            least, greatest, names = FIELDS[name]
            permitted = f"{least} to {greatest}" + (f" or {names[0]} to {names[-1]}" if names else "")
            raise _refused(cron, f": {name} {field!r}; permitted: {permitted}, *, ranges a-b, steps /n, lists a,b")
        found |= values
    return found


def _values(name: str, part: str) -> set[int]:
    """Return the values of one part of a list; none if it is wrong. `5/15` goes on to the greatest value."""
    least, greatest, names = FIELDS[name]
    match = PART.fullmatch(part)
    if match is None:
        return set()
    numbers = {one: least + index for index, one in enumerate(names)} | {str(n): n for n in range(greatest + 1)}
    first, last, step = match["first"], match["last"], int(match["step"] or 1)
    if first in ("*", "?"):
        start, end = (least, greatest) if last is None else (0, -1)
    else:
        start = numbers.get(first.lstrip("0") or "0", -1)
        end = numbers.get((last or first).lstrip("0") or "0", -1) if last or not match["step"] else greatest
    return set(range(start, end + 1, step)) if step and least <= start <= end <= greatest else set()


def _refused(cron: str, why: str) -> ClusterError:
    return ClusterError(f"cron: {cron!r} is not allowed{why}")
