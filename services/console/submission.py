"""The form that submits a job: its controls for a release, the request that it makes, and what is wrong with it.

The request is validated as a dispatcher will validate it, so that errors are shown next to the fields and nothing is
submitted that would be rejected for its words.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from services.console.checking import CheckedRequest, check_request
from services.errors import quote
from services.job_requests.items import parse_line, split_lines
from services.job_requests.messages import JsonSchema
from services.job_requests.sampling_fields import LIGHT
from services.job_requests.schema import MAX_ITEMS
from services.job_requests.strict_json import RequestError, parse_json
from services.registry.releases import ReleaseRow, request_rules

MOST_CLASSES = 2_000  # that a list in the form shows; more are given by file
SETTINGS = ("images_per_item", "seed", "steps", "guidance_scale", "solver", "format", "spacing", "decoder")
OF_THE_JOB = ("tags", "priority")  # beside its request
TEXTS = ("lines", "file", "more", *OF_THE_JOB, *SETTINGS)
EMPTY: Mapping[str, Any] = {"chosen": [], "unread": "", **dict.fromkeys(TEXTS, "")}
MAKES_ITEMS = {"interpolate", "grid"}  # fields of a request that need no items beside them
MOST_TAGS, LONGEST_TAG = 16, 100  # characters; the database permits no more
NUMBERS = ("images_per_item", "seed", "steps", "guidance_scale")


@dataclass(frozen=True)
class Control:
    """How the form asks for the condition that makes items: by classes (values and names), or by lines of text."""

    name: str
    classes: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Draft:
    """A request that a form has made. fields: as they were given. errors: by field, `items` for those of the items.

    columns: what the job has beside its request. checked: None if something is wrong, or nothing was checked yet.
    """

    fields: Mapping[str, Any]
    request: dict[str, Any]
    columns: Mapping[str, Any] = field(default_factory=dict)
    checked: CheckedRequest | None = None
    errors: Mapping[str, Sequence[str]] = field(default_factory=dict)


def find_control(rules: JsonSchema) -> Control | None:
    """Return the control for a release's condition, or None if items need a file: several conditions, or images."""
    required, properties = rules.get("required", []), rules.get("properties", {})
    if len(required) != 1:
        return None
    (name,) = required
    rule = properties[name]
    names = next((part["enum"] for part in rule.get("anyOf", ()) if "enum" in part), None)
    if names is not None and len(names) <= MOST_CLASSES:
        return Control(name, [(one, one) for one in names])
    if rule.get("type") == "integer" and rule["maximum"] - rule["minimum"] < MOST_CLASSES:
        return Control(name, [(str(one), str(one)) for one in range(rule["minimum"], rule["maximum"] + 1)])
    if rule.get("type") == "string" and "contentEncoding" not in rule:
        return Control(name)
    return None


def draft(connection: Connection, fields: Mapping[str, Any], release: ReleaseRow, bucket: str) -> Draft:
    """Make and check the request of a form.

    fields: `chosen` (a list), `lines` and `file`, of which the last that is not empty gives the items, SETTINGS, `more`
    settings as a JSON object, those of OF_THE_JOB, and `unread`: why a file could not be read. connection: of the
    viewer. bucket: of the service.
    """
    rules = request_rules(release.manifest)
    control = find_control(rules)
    columns, errors = read_columns(fields)
    if fields["unread"]:
        return Draft(fields, {}, columns, errors={**errors, "items": [fields["unread"]]})
    request: dict[str, Any] = {}
    try:
        request |= _read_more(fields["more"], rules)
    except RequestError as error:
        errors["more"] = str(error).splitlines()
    try:
        items = _read_items(fields, control, rules)
        if items:
            request["items"] = items
        elif not MAKES_ITEMS & request.keys():
            request["items"] = _read_nothing(rules)
    except RequestError as error:
        errors["items"] = str(error).splitlines()
    request |= {name: _number(fields[name]) if name in NUMBERS else fields[name] for name in SETTINGS if fields[name]}
    if errors:
        return Draft(fields, request, columns, errors=errors)
    try:
        return Draft(fields, request, columns, check_request(connection, release, request, bucket))
    except RequestError as error:
        return Draft(fields, request, columns, errors=_by_field(str(error).splitlines()))


def name_draft(draft: Draft, release: ReleaseRow, queue: str) -> str:
    """Return a digest of the job that a draft makes: of its release, its request, its columns and its queue."""
    made = (release.name, release.version, queue, draft.request, draft.columns)
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]


def fill_in(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a form that make a request."""
    lines = "\n".join(json.dumps(item, ensure_ascii=False) for item in request.get("items", ()))
    shown = {name: str(request[name]) for name in SETTINGS if name in request}
    more = {name: value for name, value in request.items() if name not in (*SETTINGS, "items")}
    return {**EMPTY, **shown, "file": lines, "more": json.dumps(more, ensure_ascii=False) if more else ""}


def read_columns(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Sequence[str]]]:
    """Return the tags and the priority that a form gives, and what is wrong with them by field."""
    columns: dict[str, Any] = {}
    errors: dict[str, Sequence[str]] = {}
    tags = list(dict.fromkeys(tag.strip() for tag in fields["tags"].split(",") if tag.strip()))
    if len(tags) > MOST_TAGS or any(len(tag) > LONGEST_TAG for tag in tags):
        errors["tags"] = [f"tags: permitted: at most {MOST_TAGS}, of at most {LONGEST_TAG} characters each"]
    elif tags:
        columns["tags"] = tags
    if fields["priority"]:
        priority = _number(fields["priority"])
        if isinstance(priority, int) and -100 <= priority <= 100:
            columns["priority"] = priority
        else:
            errors["priority"] = [
                f"priority: {quote(fields['priority'])} is not allowed; permitted: an integer from -100 to 100"
            ]
    return columns, errors


def _read_more(text: str, rules: JsonSchema) -> dict[str, Any]:
    if not text.strip():
        return {}
    given = parse_json(text)
    if not isinstance(given, dict):
        raise RequestError('not a JSON object, such as {"eta": 0.5}')
    if "input_uri" in given:
        raise RequestError("input_uri: is not allowed in this form; permitted: items. darkroom jobs submit takes it")
    shown = {"items", *SETTINGS} - (set() if rules.get(LIGHT, False) else {"decoder"})
    if wrong := sorted(shown & given.keys()):
        raise RequestError(f"{wrong[0]}: has a field of its own in this form")
    return given


def _read_items(fields: Mapping[str, Any], control: Control | None, rules: JsonSchema) -> list[Any]:
    if fields["file"].strip():
        items = read_table(fields["file"], rules)
    elif control is None:
        items = []
    elif control.classes:
        items = [{control.name: _number(one) if one.isdecimal() else one} for one in fields["chosen"]]
    else:
        items = [{control.name: line.strip()} for line in fields["lines"].splitlines() if line.strip()]
    if len(items) > MAX_ITEMS:
        raise RequestError(
            f"{len(items)} items are not allowed; permitted: at most {MAX_ITEMS}. Put a longer list into the bucket "
            "and submit it with input_uri"
        )
    return items


def _read_nothing(rules: JsonSchema) -> list[Any]:
    """Return the items of a form that gives none: one, if it needs no conditions."""
    if rules.get("required"):
        raise RequestError("choose at least one, or give items as JSON Lines or CSV")
    return [{}]


def read_table(text: str, rules: JsonSchema) -> list[Any]:
    """Return the items of JSON Lines, or of CSV whose first line names the fields. Raises RequestError."""
    lines = text.lstrip("\ufeff\n\r ")
    return list(_read_json_lines(lines) if lines.startswith("{") else _read_csv(lines, rules))


def _read_json_lines(text: str) -> Iterable[Any]:
    for line in split_lines(iter([text.encode("utf-8", "surrogatepass")])):
        if line.body and not line.body.strip():
            continue
        try:
            yield parse_line(line)
        except RequestError as error:
            raise RequestError(f"line {line.number + 1}: {error}") from None


def _read_csv(text: str, rules: JsonSchema) -> Iterable[Any]:
    texts = {name for name, rule in rules.get("properties", {}).items() if rule.get("type") == "string"} | {"id"}
    try:
        for row in csv.DictReader(io.StringIO(text), skipinitialspace=True, strict=True):
            if None in row:
                raise RequestError(f"a row has more cells than the first line has names: {', '.join(row[None])}")
            yield {name: cell if name in texts else _parse_cell(cell) for name, cell in row.items() if cell}
    except csv.Error as error:
        raise RequestError(f"not CSV: {error}") from None


def _parse_cell(cell: str) -> Any:
    try:
        return parse_json(cell)
    except RequestError:
        return cell


def _number(text: str) -> Any:
    """Return a number that a form gave, or the text as it is, which the schema refuses in words."""
    value = _parse_cell(text)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text


def _by_field(lines: Sequence[str]) -> dict[str, list[str]]:
    """Return the messages of a request by the control of the form beside which they belong."""
    found: dict[str, list[str]] = {}
    for line in lines:
        name = line.split(":", 1)[0]
        place = name if name in SETTINGS else "items" if name.startswith("items") else "more"
        found.setdefault(place, []).append(line)
    return found
