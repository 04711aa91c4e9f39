"""Parses JSON from clients, and refuses what a double, Postgres's text or other programs' JSON cannot hold."""

import json
import math
import re
from typing import Any

from services.errors import quote, quote_name
from services.job_requests.messages import MAX_DEPTH, depth_exceeds
from training.errors import DarkroomError

LARGEST = "1.7976931348623157e308"  # a double
MAX_DIGITS = 309  # of an integer; a double has no more
MAX_INTEGER = int(1.7976931348623157e308)
TOO_DEEP = f"nested too deeply; permitted: at most {MAX_DEPTH} levels"
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # NUL, and halves of a character: Postgres has neither
ESCAPED = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")


class RequestError(DarkroomError):
    """A request that is not allowed. Each line names a field, its value and what is permitted."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON text, in UTF-8 if it is bytes. Of a key that is given twice the last value counts.

    Raises RequestError if it is not JSON, or has NaN, a number that no double holds, or a string that no text in
    Postgres holds.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(decoded, parse_constant=_refuse_constant, parse_int=_parse_int, parse_float=_parse_float)
    except RecursionError:
        raise RequestError(TOO_DEEP) from None
    except UnicodeDecodeError as error:
        raise RequestError(f"not JSON: byte {error.start + 1} is not UTF-8") from None
    except ValueError as error:
        raise RequestError(f"not JSON: {error}") from None
    if ESCAPED.search(decoded):
        _check_strings(value)
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _parse_int(digits: str) -> int:
    number = int(digits) if len(digits) <= MAX_DIGITS + 1 else math.inf
    if abs(number) > MAX_INTEGER:
        raise RequestError(f"an integer of {len(digits.lstrip('-'))} digits is not allowed; permitted: up to {LARGEST}")
    return int(number)


def _parse_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise RequestError(f"the number {digits[:30]} is not allowed; permitted: up to {LARGEST}")
    return number


def _check_strings(value: Any) -> None:
    """Raise RequestError for a string or a key that Postgres cannot hold. This needs no recursion."""
    parts = [("", value)]
    while parts:
        field, part = parts.pop()
        if isinstance(part, str) and UNSTORABLE.search(part):
            if depth_exceeds(value, MAX_DEPTH):  # the name of the field would be as long as the way to it
                raise RequestError(TOO_DEEP)
            where = f"{field.lstrip('.')}: " if field else ""
            raise RequestError(f"{where}{quote(part)} is not allowed; permitted: text without NUL and lone surrogates")
        if isinstance(part, dict):
            parts += [(field, key) for key in part]
            parts += [(f"{field}.{quote_name(key)}", inner) for key, inner in part.items()]
        elif isinstance(part, list):
            parts += [(f"{field}[{number}]", inner) for number, inner in enumerate(part)]
