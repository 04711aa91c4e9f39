"""The options of stored images: format, quality, names, thumbnails, embedded metadata and archives."""

import re
from collections.abc import Mapping
from typing import Any, cast

from services.errors import quote
from services.job_queue.plan import Item, OutputOptions, Plan
from services.job_requests.seen_ids import SeenIds
from services.job_requests.strict_json import RequestError

FORMATS = ("png", "jpeg", "webp")
LOSSY = ("jpeg", "webp")
ARCHIVES = ("tar", "parquet")
SMALLEST_ARCHIVE, LARGEST_ARCHIVE, ARCHIVE_MIB = 1, 4096, 256  # MiB of an archive; the last is the default
MAX_TEMPLATE, MAX_NAME = 200, 200  # characters
MAX_NAMED = 100_000  # images of a job whose names must be compared: half a second of one processor
SMALLEST_THUMBNAIL, LARGEST_THUMBNAIL = 16, 512  # pixels of the longer side
PLACE = re.compile(r"\{([^{}]*)\}")
NAME = re.compile(r"[A-Za-z0-9_=\-][A-Za-z0-9_.=\-]*")
NAME_WORDS = "letters, digits, '_', '-', '=' and '.', not first"
OWN_PLACES = ("index", "k", "seed")  # of the image; `index` has eight digits, so no two images share a name with it

OUTPUT = {
    "type": "object",
    "properties": {
        "format": {"enum": list(FORMATS)},
        "quality": {"type": "integer", "minimum": 1, "maximum": 100},
        "name": {"type": "string", "minLength": 1, "maxLength": MAX_TEMPLATE},
        "thumbnail": {"type": "integer", "minimum": SMALLEST_THUMBNAIL, "maximum": LARGEST_THUMBNAIL},
        "metadata": {"type": "boolean"},
        "archive": {"enum": list(ARCHIVES)},
        "archive_mib": {"type": "integer", "minimum": SMALLEST_ARCHIVE, "maximum": LARGEST_ARCHIVE},
    },
    "additionalProperties": False,
}


def output_mistakes(request: Mapping[str, Any]) -> list[str]:
    """Return a line for each option of a request that does not fit the others. The request has its schema's form."""
    options = request.get("output", {})
    image_format = options.get("format", request.get("format", FORMATS[0]))
    mistakes = []
    if "format" in options and "format" in request:
        mistakes.append("output.format: given together with format; give only one of them")
    if "quality" in options and image_format not in LOSSY:
        permitted = f"with the format {' or '.join(LOSSY)}"
        mistakes.append(f"output.quality: {options['quality']} is not allowed; permitted: {permitted}")
    if "archive_mib" in options and "archive" not in options:
        mistakes.append(f"output.archive_mib: {options['archive_mib']} is not allowed; permitted: with an archive")
    template = options.get("name")
    if template is not None and (text := PLACE.sub("", template)) and not re.fullmatch(r"[A-Za-z0-9_.=\-]*", text):
        mistakes.append(
            f"output.name: {quote(template)} is not allowed; permitted: {NAME_WORDS}, "
            "and fields in braces such as {id}, {index}, {seed}, {class_label} or {metadata.NAME}"
        )
    return mistakes


def plan_output(output: Mapping[str, Any]) -> OutputOptions:
    """Return the options of a valid request with whole numbers as integers: JSON Schema takes 80.0 for one."""
    return cast(
        OutputOptions, {name: int(value) if isinstance(value, float) else value for name, value in output.items()}
    )


def image_name(plan: Plan, item: Item, index: int, seed: int) -> str | None:
    """Return the name of image `index`, without a suffix, or None if the plan names images by their index alone.

    Raises RequestError if the item lacks a field of the template, or gives a name that is not allowed.
    """
    template = plan.get("output", {}).get("name")
    if template is None:
        return None
    number, k = divmod(index, int(plan["images_per_item"]))
    name = _fill_own(_fill_item(template, item, number), index, k, seed)
    if len(name) > MAX_NAME or not NAME.fullmatch(name):
        raise RequestError(
            f"output.name: {quote(name)} is not allowed; permitted: 1 to {MAX_NAME} characters of {NAME_WORDS}"
        )
    return name


def _fill_item(template: str, item: Item, number: int) -> str:
    """Fill the fields of an item in; those of an image stay."""
    return PLACE.sub(
        lambda place: (
            place[0] if place[1] in OWN_PLACES else str(number) if place[1] == "item" else _value(item, place[1])
        ),
        template,
    )


def _fill_own(template: str, index: int, k: int, seed: int) -> str:
    return template.replace("{index}", f"{index:08d}").replace("{k}", str(k)).replace("{seed}", str(seed))


def _value(item: Item, place: str) -> str:
    """Return a field of an item as text, such as `class_label` or `metadata.sku`."""
    value: Any = item
    for part in place.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        permitted = f"{', '.join(OWN_PLACES)}, item, or a field of every item that is a text or an integer"
        raise RequestError(f"output.name: {{{place}}} is not a field of this item; permitted: {permitted}")
    return str(value).replace("{", "}")  # neither is allowed; it must not look like a place


def check_named(plan: Plan, images: int) -> None:
    """Raise RequestError if a job has more images than can be compared by name."""
    template = plan.get("output", {}).get("name", "{index}")
    if "{index}" not in template and images > MAX_NAMED:
        raise RequestError(
            f"output.name: {quote(template)} is not allowed for {images} images; "
            f"permitted: at most {MAX_NAMED} images, or names with {{index}}"
        )


class ImageNames:
    """The names of a job's images: checks that each is allowed, and that no two are the same."""

    def __init__(self, plan: Plan, images: int) -> None:
        template = plan.get("output", {}).get("name")
        self._plan, self._template = plan, template
        self._seen = None if template is None or "{index}" in template else SeenIds(images)

    def check(self, item: Item, number: int) -> None:
        """Check the names of an item's images. Raises RequestError for the first that is wrong."""
        if self._template is None:
            return
        per_item = int(self._plan["images_per_item"])
        last = (number + 1) * per_item - 1
        seed = int(item["seed"]) if "seed" in item else int(self._plan["seed"]) + number * per_item
        image_name(self._plan, item, last, seed + per_item - 1)  # which of them is allowed if the longest one is
        if self._seen is None:
            return
        filled = _fill_item(self._template, item, number)
        for k in range(per_item):
            name = _fill_own(filled, 0, k, seed + k)
            if not self._seen.add(name):
                raise RequestError(
                    f"output.name: {quote(name)} names two images; permitted: names that differ; add {{index}}"
                )
