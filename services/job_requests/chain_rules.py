"""The rules of a chain's stages: what each may request, and whether it fits the one before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from jsonschema import Draft202012Validator

from services.errors import quote
from services.job_queue.plan import Item, Plan
from services.job_requests.canvas import CANVAS, Canvas, Size, check_proportions
from services.job_requests.chains import TAKES, THEN
from services.job_requests.image_rules import ANY_IMAGE, IMAGE_RULE, ImageRule
from services.job_requests.messages import MAX_MESSAGES, JsonSchema, validation_messages
from services.job_requests.sampling_fields import (
    SHARED,
    STRENGTH,
    as_size,
    has_images,
    merge,
    sampling_mistakes,
    sampling_schema,
)
from services.job_requests.schema import defaults_of
from services.job_requests.strict_json import RequestError

IMAGE = "image"  # what takes the image before it in a release that has no condition for one
GIVEN = {"not": {}, "$comment": "the stage takes the images of the stage before it"}
OWN_SEEDS = {"not": {}, "$comment": "the noise of each stage follows from the seed of the image"}
NO_STRENGTH = {"not": {}, "$comment": "this release takes the image before it as a condition, and begins with noise"}


@dataclass(frozen=True)
class ChainRelease:
    """The release of a stage. model: as name@version. rules: see `releases.request_rules`."""

    model: str
    rules: JsonSchema

    @property
    def canvas(self) -> Canvas:
        """What its images are."""
        return cast(Canvas, self.rules[CANVAS])

    @property
    def conditions(self) -> dict[str, Any]:
        """The JSON Schemas of its conditions that are no images."""
        return {name: rule for name, rule in self.rules.get("properties", {}).items() if not has_images(rule)}

    @property
    def takes(self) -> str:
        """The field that takes an image before it: a condition that is an image in colours, or else `image`.

        Raises RequestError if the release needs images that a chain does not give.
        """
        images = [name for name in self.rules.get("properties", {}) if name not in self.conditions]
        for name in map(str, images):
            rule = self.rules["properties"][name]
            if len(images) == 1 and rule.get(IMAGE_RULE, ANY_IMAGE).meaning == "colour" and "contentEncoding" in rule:
                return name
            raise RequestError(
                f"model: {quote(self.model)} is not allowed, since it needs {' and '.join(images)}; permitted: a "
                "release that takes low_resolution, or no image, which begins with the image before it"
            )
        return IMAGE


def plan_entries(plan: Plan, releases: Sequence[ChainRelease]) -> list[dict[str, Any]]:
    """Return the entries of a chain with every default filled in. releases: of stage 0 and of each entry.

    Raises RequestError with a line for each mistake.
    """
    mistakes: list[str] = []
    entries: list[dict[str, Any]] = []
    for number, entry in enumerate(plan["then"]):
        try:
            entries.append(_plan_entry(entry, releases[number + 1], releases[0]))
            _check_images(releases[number], None if number == 0 else entries[number - 1], releases[number + 1],
                          entries[number])  # fmt: skip
        except RequestError as error:
            mistakes += [f"then[{number}].{line}" for line in str(error).splitlines()]
            break  # what follows depends on it
    if mistakes:
        raise RequestError("\n".join(mistakes))
    return entries


def _plan_entry(entry: Mapping[str, Any], release: ChainRelease, first: ChainRelease) -> dict[str, Any]:
    """Return an entry with every default. A condition that no item can have must be given. Raises RequestError."""
    takes, canvas = release.takes, release.canvas
    sampling = sampling_schema({**release.rules, "properties": release.conditions})
    properties = {**THEN["items"]["properties"], **release.conditions, **sampling, "seed": OWN_SEEDS}  # type: ignore[index]  # the nested schema of THEN
    properties |= dict.fromkeys((takes, IMAGE, "mask", "variations"), GIVEN)
    properties["strength"] = STRENGTH if takes == IMAGE else NO_STRENGTH
    needed = [name for name in release.rules.get("required", ()) if name in release.conditions]
    required = ["model", *(["strength"] if takes == IMAGE else [])]
    required += [name for name in needed if name not in first.conditions]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    mistakes = validation_messages(dict(entry), Draft202012Validator(schema))
    planned: dict[str, Any] = {name: value for name, value in defaults_of(release.rules).items() if name in SHARED}
    planned |= {**entry, "model": release.model, "keep": entry.get("keep", False), TAKES: takes}
    if not mistakes:
        with_image = {**planned, IMAGE: ""} if takes == IMAGE else planned
        mistakes = sampling_mistakes(cast(Plan, with_image), {}, canvas)
    if mistakes:
        raise RequestError("\n".join(mistakes))
    if "size" in planned:
        planned["own_area"] = canvas.area
    return planned


def _size_of(release: ChainRelease, entry: Mapping[str, Any]) -> Size:
    return as_size(entry.get("size", release.canvas.size))


def _check_images(
    before: ChainRelease, entry_before: Mapping[str, Any] | None, release: ChainRelease, entry: Mapping[str, Any]
) -> None:
    """Raise RequestError unless a stage can take the images of the one before it, as far as items do not matter."""
    rule: ImageRule = release.canvas.image_rule
    if entry[TAKES] != IMAGE:
        rule = release.rules["properties"][entry[TAKES]].get(IMAGE_RULE, ANY_IMAGE)
    if rule.channels not in (None, before.canvas.channels):
        raise RequestError(
            f"model: {quote(release.model)} is not allowed after {quote(before.model)}, whose images have "
            f"{before.canvas.channels} channels; permitted: a release whose {entry[TAKES]} has as many, "
            f"and not {rule.channels}"
        )
    if entry_before is not None:
        check_size(_size_of(before, entry_before), release, entry)


def check_size(size: Size, release: ChainRelease, entry: Mapping[str, Any]) -> None:
    """Raise RequestError unless a stage takes images of this size.

    A condition takes the size for which the release was trained, scaled as its output is. An `image` is resized, and
    needs the proportions of the output.
    """
    width, height = _size_of(release, entry)
    if entry[TAKES] == IMAGE:
        try:
            check_proportions(size, (width, height))
        except ValueError as error:
            raise RequestError(str(error)) from None
        return
    factor = release.canvas.factor
    needed = (width // factor, height // factor)
    if size != needed:
        raise RequestError(
            f"{entry[TAKES]}: images of {size[0]} x {size[1]} pixels are not allowed; permitted: {needed[0]} x "
            f"{needed[1]}, of which {release.model} makes {width} x {height}"
        )


class ChainCheck:
    """Checks items of a chain: their size, and the conditions that stages take from them."""

    def __init__(self, plan: Plan, releases: Sequence[ChainRelease]) -> None:
        self._plan, self._releases = plan, releases
        self._validators = []
        for entry, release in zip(plan["then"], releases[1:], strict=True):
            inherited = {name: rule for name, rule in release.conditions.items() if name not in entry}
            required = [name for name in release.rules.get("required", ()) if name in inherited]
            properties = {**inherited, "toward": {"type": "object", "properties": inherited}}
            schema = {"type": "object", "properties": properties, "required": required}
            self._validators.append(Draft202012Validator(schema))

    def __call__(self, item: Item, where: str = "") -> None:
        """Raise RequestError with a line for each mistake. where: of the item in the request, such as "items[3]."."""
        mistakes: list[str] = []
        for number, validator in enumerate(self._validators):
            lines = validation_messages(item, validator)
            mistakes += [f"{where}{line}, for then[{number}]" for line in lines]
        size = as_size(merge(self._plan, item).get("size", self._releases[0].canvas.size))
        try:
            check_size(size, self._releases[1], self._plan["then"][0])
        except RequestError as error:
            mistakes.append(f"{where if 'size' in item else ''}then[0].{error}")
        if mistakes:
            raise RequestError("\n".join(mistakes))

    def check_items(self) -> None:
        """Check the items of the plan. Raises RequestError with a line for each of the first mistakes."""
        found: dict[str, None] = {}  # a mistake of the job is that of all its items
        for number, item in enumerate(self._plan["items"]):
            try:
                self(item, f"items[{number}].")
            except RequestError as error:
                found |= dict.fromkeys(str(error).splitlines())
            if len(found) >= MAX_MESSAGES:
                break
        if found:
            raise RequestError("\n".join(list(found)[:MAX_MESSAGES]))
