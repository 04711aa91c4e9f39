"""The templates, and the formats of times, sizes and numbers."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from os import PathLike, stat_result
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi.templating import Jinja2Templates
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
TEXTS = ("caption", "text", "prompt")  # fields of an item
TIME = re.compile(r"\b(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)?\+00\b")  # in the session's zone, UTC
LONGEST_TEXT, LONGEST_CAPTION = 200, 10_000  # characters of a value in a summary, and of a caption in full


def make_templates() -> Jinja2Templates:
    """Return the templates of this package. Every value is escaped, and a value that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("services.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "age": show_age, "time": show_time, "number": show_number, "duration": show_duration, "size": show_size,
        "pretty": show_json, "summary": summarise_value, "field": show_field,
        "told": tell_item, "shape": show_shape, "in_seconds": cut_times,
    }  # fmt: skip
    environment.globals |= {"query": make_query, "static": static_path}
    return Jinja2Templates(env=environment)


class VersionedFiles(StaticFiles):
    """Files that browsers keep for good where the address names their content, and else ask about each time."""

    def file_response(
        self, full_path: PathLike[str] | str, stat_result: stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file, or that it has not changed."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        is_named = scope["query_string"] == f"v={version_of(Path(full_path).name)}".encode()
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_named else "no-cache"
        return response


def static_files() -> StaticFiles:
    """Return the style sheet and the scripts of this package."""
    return VersionedFiles(directory=STATIC)


@cache
def version_of(name: str) -> str:
    """Return what an address of a static file names its content by; nothing for a file that does not exist."""
    file = STATIC / name
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.is_file() else ""


def static_path(name: str) -> str:
    """Return the address of a static file."""
    return f"/static/{name}?v={version_of(name)}"


def show_time(moment: datetime) -> str:
    """Return a time in UTC, such as 2026-05-01 12:30:05 UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def cut_times(words: str) -> str:
    """Return a text of the database with its times in UTC, in whole seconds."""
    return TIME.sub(r"\1 UTC", words)


def show_age(moment: datetime) -> str:
    """Return how long ago, or in how long, a time is: 5 min ago."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"{show_duration(seconds)} ago" if seconds >= 0 else f"in {show_duration(-seconds)}"


def show_duration(seconds: float) -> str:
    """Return a duration in its largest unit, such as 90 s, 12 min or 3 d."""
    for unit, length in UNITS:
        if seconds >= 2 * length or unit == "s":
            return f"{seconds / length:.0f} {unit}"
    raise AssertionError


def show_number(value: float) -> str:
    """Return a number with commas between thousands, and at most three digits of a fraction."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def show_size(count: int) -> str:
    """Return a number of bytes as B, KiB or MiB."""
    return f"{count} B" if count < 1024 else f"{count / 1024:.0f} KiB" if count < 2**20 else f"{count / 2**20:.1f} MiB"


def show_json(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def show_field(value: Any, name: str) -> str:
    """Return a field of an item: a caption in full, anything else in one short line."""
    return summarise_value(value, LONGEST_CAPTION if name in TEXTS else LONGEST_TEXT)


def summarise_value(value: Any, longest: int = LONGEST_TEXT) -> str:
    """Return a value in one short line: text as it is, anything else as JSON. Images in base64 are cut."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {summarise_value(one)}" for name, one in value.items())
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else f"{text[:longest]}…"


def tell_item(item: Mapping[str, Any]) -> str:
    """Return the fields of an item in one short line, its caption first and without its name."""
    texts = [summarise_value(item[name]) for name in TEXTS if item.get(name)]
    others = {name: value for name, value in item.items() if name not in TEXTS or not value}
    return " · ".join([*texts, *([summarise_value(others)] if others else [])])


def show_shape(shape: Sequence[int]) -> str:
    """Return the shape [C, H, W] of images, such as 32 \u00d7 48 pixels, colour."""
    channels, height, width = shape
    return f"{width} \u00d7 {height} pixels, {'grey' if channels == 1 else 'colour'}"


def make_query(values: Mapping[str, Any], **changes: Any) -> str:
    """Return a query string of the values that are set, with changes: ?state=failed&after=12; without any: empty."""
    merged = {name: value for name, value in {**values, **changes}.items() if value not in (None, "", [], ())}
    pairs = [
        (name, one)
        for name, value in merged.items()
        for one in (value if isinstance(value, Sequence) and not isinstance(value, str) else (value,))
    ]
    return f"?{urlencode(pairs)}" if pairs else ""
