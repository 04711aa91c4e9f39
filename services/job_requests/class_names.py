"""Classes by name: a release's JSON Schema of a class permits its number, and its name if the classes have names."""

from typing import Any

from services.job_requests.messages import JsonSchema


def class_number(rule: JsonSchema, value: Any) -> Any:
    """Return the number of a class that a request gives by name; other values are returned unchanged.

    rule: the JSON Schema of the condition, as `ClassConditioner.schema` writes it.
    """
    if not isinstance(value, str):
        return value
    names = next((part["enum"] for part in rule.get("anyOf", ()) if "enum" in part), ())
    return names.index(value) if value in names else value
