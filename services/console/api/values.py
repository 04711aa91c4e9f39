"""Values of the API, as strict as the columns of SQL: a number is no time, and a text no number."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

NUMBER = re.compile(r"\s*[-+]?[0-9.]+\s*")


def _refuse_number(value: Any) -> Any:
    """Raise ValueError for a number, which would be read as the seconds since 1970."""
    if isinstance(value, int | float) or (isinstance(value, str) and NUMBER.fullmatch(value)):
        raise ValueError("not allowed; permitted: a time such as 2026-01-31T18:00:00Z, or a date such as 2026-01-31")
    return value


def _refuse_text(value: Any) -> Any:
    """Raise ValueError for a value of JSON that is no number."""
    if isinstance(value, bool | str):
        raise ValueError("not allowed; permitted: an integer")
    return value


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[
    datetime,
    BeforeValidator(_refuse_number),
    AfterValidator(_aware),
    Field(description="a time in ISO 8601, in UTC unless it names its offset"),
]
Day = Annotated[date, BeforeValidator(_refuse_number), Field(description="a day in UTC, such as 2026-01-31")]
Whole = Annotated[int, BeforeValidator(_refuse_text)]  # in a body: parameters of an address are texts
Flag = Annotated[bool, Field(strict=True)]
