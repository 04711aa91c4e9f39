"""Messages for validation errors: the field, its value and what is permitted."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from services.errors import quote, quote_name

JsonSchema = Mapping[str, Any]

MAX_MESSAGES = 10
MAX_MISTAKES = 1_000  # that are looked for: a request of 4 MiB may have a million
MAX_CHOICES = 30  # that a message lists
MAX_DEPTH = 32  # levels of nested lists and objects
KEY_WORDS = "names of letters, digits, '_', '-', '=' and '.', joined by '/'"


def validation_messages(value: Any, validator: Draft202012Validator) -> list[str]:
    """Return a line for each of the first MAX_MESSAGES mistakes; an empty list if the value is valid."""
    if depth_exceeds(value, MAX_DEPTH):
        return [f"nested too deeply; permitted: at most {MAX_DEPTH} levels"]
    found = list(islice(validator.iter_errors(value), MAX_MISTAKES + 1))
    errors = sorted(found[:MAX_MISTAKES], key=lambda e: list(map(str, e.path)))
    lines = [line for error in errors for line in describe_error(error)]
    count = f"{'at least ' if len(found) > MAX_MISTAKES else ''}{len(lines) - MAX_MESSAGES}"
    return lines[:MAX_MESSAGES] + ([f"and {count} more mistakes"] if len(lines) > MAX_MESSAGES else [])


def depth_exceeds(value: Any, limit: int) -> bool:
    """Return whether lists and objects nest more than `limit` levels, without recursion."""
    level = [value]
    for _ in range(limit):
        level = [part for outer in level if isinstance(outer, dict | list)
                 for part in (outer.values() if isinstance(outer, dict) else outer)]  # fmt: skip
        if not level:
            return False
    return any(isinstance(part, dict | list) for part in level)


def describe_error(error: ValidationError) -> list[str]:
    """Return one line for each mistake: the field, its value and what is permitted."""
    rule: Any = error.schema
    instance: Any = error.instance
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{quote_name(part)}" for part in error.absolute_path)
    path = path.lstrip(".")
    match error.validator:
        case "required":
            name = error.message.split("'")[1]  # one error for each missing field; only its message names the field
            return [f"{path}.{name}".lstrip(".") + f": missing; give {describe_rule(rule['properties'][name])}"]
        case "additionalProperties":
            known = rule["properties"]
            unknown = sorted(set(instance) - known.keys())
            permitted = ", ".join(sorted(name for name, field in known.items() if "not" not in field))
            return [
                f"{path}.{quote_name(name)}".lstrip(".") + f": not a known field; permitted: {permitted}"
                for name in unknown[: MAX_MESSAGES + 1]
            ]
    return [f"{path or 'request'}: {quote(instance)} is not allowed; permitted: {describe_rule(rule)}"]


def describe_rule(rule: JsonSchema) -> str:
    """Describe in words what a JSON Schema permits."""
    if "anyOf" in rule:
        return ", or one of ".join(map(describe_rule, rule["anyOf"]))
    if "enum" in rule:
        more = len(rule["enum"]) - MAX_CHOICES
        return ", ".join(map(str, rule["enum"][:MAX_CHOICES])) + (f" and {more} more" if more > 0 else "")
    if "const" in rule:
        return f"{rule['const']}; {rule['$comment']}"
    if "not" in rule:
        return f"nothing; {rule['$comment']}"
    least, most = rule.get("minItems", 0), rule.get("maxItems")
    match rule.get("type"):
        case "integer" | "number" as kind:
            noun = "an integer" if kind == "integer" else "a number"
            return f"{noun} from {rule['minimum']} to {rule['maximum']}"
        case "array" if least == most:
            return f"a list of {least}, each {describe_rule(rule['items'])}"
        case "array":
            return f"a list of {least} to {most} items"
        case "string" if "pattern" in rule:
            return KEY_WORDS
        case "string" if rule.get("contentEncoding") == "base64":
            return "a base64-encoded image file, or the s3:// URI of one"
        case "string":
            return f"text of {rule.get('minLength', 0)} to {rule.get('maxLength', 'any number of')} characters"
        case "boolean":
            return "true or false"
        case "object" if "minProperties" in rule:
            most = f" and at most {rule['maxProperties']}" if "maxProperties" in rule else ""
            return f"a JSON object with at least one{most} of {', '.join(sorted(rule['properties']))}"
        case _:
            return "a JSON object"
