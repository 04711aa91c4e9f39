"""Images in conditions: base64 in the request, or the URI of an object that the worker reads.

The release's JSON Schema marks which parts of a condition are images (`contentEncoding`), and `image_rules` adds what
they must be. Planning checks the images in a request; what is in objects is only known when it is read.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import chain
from typing import Any

from services.job_requests.canvas import CANVAS, Canvas, check_beginning
from services.job_requests.image_files import MAX_BYTES, decode_image, read_size
from services.job_requests.image_rules import ANY_IMAGE, IMAGE_RULE, ImageRule
from services.job_requests.messages import MAX_MESSAGES, JsonSchema
from services.job_requests.sampling_fields import as_size, item_rules, shared_fields
from services.job_requests.schema import Limits, resolve_key
from services.job_requests.strict_json import RequestError
from services.storage.object_store import ObjectStore
from services.storage.uri import SCHEME, ObjectUri

NO_FIELDS: Mapping[str, Any] = {}
OF_A_BEGINNING = {"image", "mask", "size"}  # fields whose sizes must fit each other
PIXELS_DECODED = 16 * 2**20  # in planning, of one request: less than half a second of one processor


def map_images(value: Any, rule: JsonSchema, change: Callable[[Any, str, ImageRule], Any], field: str = "") -> Any:
    """Return a condition's value with each image replaced by `change(image, field, its rule)`.

    rule: the JSON Schema of the value.
    """
    if isinstance(value, dict):
        rules = rule.get("properties", {})
        return {
            name: map_images(part, rules.get(name, {}), change, f"{field}.{name}".lstrip("."))
            for name, part in value.items()
        }
    is_image = rule.get("contentEncoding") == "base64"
    return change(value, field, rule.get(IMAGE_RULE, ANY_IMAGE)) if is_image else value


def check_items(
    items: Iterable[Mapping[str, Any]],
    conditions: JsonSchema,
    limits: Limits | None,
    job: Mapping[str, Any] = NO_FIELDS,
) -> bool:
    """Check the images of a request's items and of the job itself. Returns whether any of them is in an object.

    conditions: see `releases.request_rules`. limits: see `ImageCheck`. The first PIXELS_DECODED pixels are decoded, and
    of later images only the headers are read, so that no request keeps the planner busy. Raises RequestError with a
    line for each of the first MAX_MESSAGES mistakes.
    """
    check = ImageCheck(conditions, limits, job, pixels=PIXELS_DECODED)
    mistakes: list[str] = []
    for name, item in chain([("", job)], ((f"items[{number}]", item) for number, item in enumerate(items))):
        try:
            check(item, name)
        except RequestError as error:
            mistakes.append(str(error))
        if len(mistakes) == MAX_MESSAGES:
            break
    if mistakes:
        raise RequestError("\n".join(mistakes))
    return check.found_reference


class ImageCheck:
    """Checks the images of items: what the tenant may read, and what is in the files as far as it is known.

    limits: None if they are not known; then every object is taken for one that may be read. job: the fields that hold
    for all items. pixels: how many to decode in all; of the other images only the headers are read.
    """

    def __init__(
        self, conditions: JsonSchema, limits: Limits | None, job: Mapping[str, Any] = NO_FIELDS, *, pixels: int = 0
    ) -> None:
        self._canvas: Canvas | None = conditions.get(CANVAS)
        self._given, self._job = job, shared_fields(job)
        self._rules, self._limits, self._pixels = item_rules(conditions), limits, pixels
        self.found_reference = False

    def __call__(self, item: Mapping[str, Any], field: str = "") -> None:
        """Raise RequestError for the first image of an item that cannot be used."""
        canvas = self._canvas
        if canvas is None:
            map_images(dict(item), self._rules, self._check, field)
            return
        fields = {**self._job, **item}
        size = as_size(fields.get("size", canvas.size))

        def check(image: Any, name: str, rule: ImageRule) -> None:
            self._check(image, name, canvas.rule_for(rule, size))

        map_images(dict(item), self._rules, check, field)
        if item is not self._given and not OF_A_BEGINNING & item.keys():
            return  # what it begins with is that of the job, which is checked once
        try:
            check_beginning(fields, size)
        except ValueError as error:
            raise RequestError(f"{field}.{error}".lstrip(".")) from None

    def _check(self, image: Any, name: str, rule: ImageRule) -> None:
        if image.startswith(SCHEME):
            self.found_reference = True
            if self._limits is not None:
                resolve_key(name, image, self._limits)
            return
        try:
            width, height = read_size(image, rule)
            if width * height <= self._pixels:
                self._pixels -= width * height
                decode_image(image, rule)
        except ValueError as error:
            raise RequestError(f"{name}: {error}") from None


def fetch_images(
    item: Mapping[str, Any], rules: JsonSchema, store: ObjectStore, read_at: datetime | None = None
) -> dict[str, Any]:
    """Return the item with each object that it refers to replaced by its bytes; an `ImageCheck` has passed.

    rules: see `sampling_fields.item_rules`. read_at: when the job was planned, by the clock of the store. Raises
    ValueError for an object that is missing, too large or newer.
    """

    def fetch(image: Any, name: str, rule: ImageRule) -> Any:
        uri = None if isinstance(image, bytes) else ObjectUri.parse(image)
        if uri is None:
            return image
        try:
            return store.get_at_most(uri.key, MAX_BYTES, not_after=read_at)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    fetched: dict[str, Any] = map_images(dict(item), rules, fetch)
    return fetched


def decode_images(
    value: Any, rule: JsonSchema, field: str, adapt: Callable[[ImageRule], ImageRule] = lambda rule: rule
) -> Any:
    """Return a condition's value with its images decoded to arrays [H, W] or [H, W, C]; see `decode_image`.

    adapt: changes the rule of each image. Raises ValueError naming the field.
    """

    def decode(image: Any, name: str, image_rule: ImageRule) -> Any:
        try:
            return decode_image(image, adapt(image_rule))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    return map_images(value, rule, decode, field)
