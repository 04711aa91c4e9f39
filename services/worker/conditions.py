"""The conditions of requests: read in any thread, and embedded by the thread that owns the model."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from services.job_requests.canvas import CANVAS, Beginning, Canvas, Size, read_beginning
from services.job_requests.class_names import class_number
from services.job_requests.condition_images import decode_images
from services.job_requests.image_rules import add_image_rules
from services.job_requests.sampling_fields import as_size, item_rules
from services.worker.bounded_cache import BoundedCache
from services.worker.device_faults import concerns_device
from training.model.latent_diffusion import LatentDiffusion, Prepared
from training.model.release import Release

READ_BYTES = 256 * 2**20  # of conditions that are kept as read
BEGINNING_BYTES = 64 * 2**20  # of images to begin with that are kept as read
EMBEDDED_BYTES = 512 * 2**20  # of embedded conditions that are kept on the device

Input = TypeVar("Input")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class ReadBeginning(Beginning):
    """What sampling begins with. Equal ones have equal digests."""

    digest: bytes


@dataclass(frozen=True, eq=False)
class ReadConditions:
    """The values of a request's conditions in the sizes that the model needs. Equal values have equal digests.

    negative: what guidance leads away from; None is the null condition. beginning: None is noise. toward: conditions
    whose embedding is mixed in, and their share.
    """

    values: Mapping[str, Any]
    digest: bytes
    negative: "ReadConditions | None" = None
    beginning: ReadBeginning | None = None
    toward: "tuple[ReadConditions, float] | None" = None


class ConditionReader:
    """Decodes images and resizes them, once for all requests with the same conditions. Every thread may call `read`."""

    def __init__(self, model: LatentDiffusion, release: Release) -> None:
        self._canvas = Canvas.of(release)
        self._factor = release.image_shape[1] // release.latent_shape[1]
        conditions = add_image_rules(release.conditions, release.architecture, release.latent_shape)
        self.rules = item_rules({**conditions, CANVAS: self._canvas})
        self._conditioners = model.conditioners
        self._properties: Mapping[str, Any] = conditions["properties"]
        self._read = BoundedCache[bytes, ReadConditions](READ_BYTES, lambda conditions: count_bytes(conditions.values))
        self._beginnings = BoundedCache[bytes, ReadBeginning](
            BEGINNING_BYTES, lambda one: count_bytes((one.image, one.hole))
        )

    def read(self, item: Mapping[str, Any]) -> ReadConditions:
        """Return the conditions of an item, whose images are in base64 or bytes.

        Raises ValueError naming the condition that cannot be used.
        """
        size = as_size(item.get("size", self._canvas.size))
        missing = [name for name in self._properties if name not in item]
        if missing:  # every item had it when its job was planned
            raise ValueError(f"{missing[0]}: is missing; the job's input has changed since the job was planned")
        conditions = self._read_values({name: item[name] for name in self._properties}, size)
        if "negative" in item:
            try:
                negative = self._read_values(dict.fromkeys(self._properties) | item["negative"], size)
            except ValueError as error:
                raise ValueError(f"negative.{error}") from None
            conditions = replace(conditions, negative=negative)
        toward = {name: value for name, value in item.get("toward", {}).items() if name in self._properties}
        if toward:
            try:
                end = self._read_values({name: item[name] for name in self._properties} | toward, size)
            except ValueError as error:
                raise ValueError(f"toward.{error}") from None
            conditions = replace(conditions, toward=(end, float(item["toward"]["share"])))
        if "image" in item:
            conditions = replace(conditions, beginning=self._read_beginning(item, size))
        return conditions

    def _read_beginning(self, item: Mapping[str, Any], size: Size) -> ReadBeginning:
        digest = digest_of({"image": item["image"], "mask": item.get("mask"), "size": size})
        beginning = self._beginnings.get(digest)
        if beginning is None:
            read = read_beginning(item, self._canvas, size)
            beginning = ReadBeginning(read.image, read.hole, digest)
            self._beginnings.put(digest, beginning)
        return beginning

    def _read_values(self, values: Mapping[str, Any], size: Size) -> ReadConditions:
        """Return conditions for outputs of a size, None for one that has its null condition."""
        # JSON does not tell 3.0 from 3, and the class 3.0 is the class 3.
        given = {name: class_number(rule, _integral(values[name])) for name, rule in sorted(self._properties.items())}
        digest = digest_of({"conditions": given, "size": size})
        conditions = self._read.get(digest)
        if conditions is None:
            decoded = {name: self._decode(name, value, size) for name, value in given.items()}
            latent_size = (size[1] // self._factor, size[0] // self._factor)
            conditions = ReadConditions(self._conditioners.fit(decoded, latent_size), digest)
            self._read.put(digest, conditions)
        return conditions

    def _decode(self, name: str, value: Any, size: Size) -> Any:
        if value is None:
            return None
        return decode_images(value, self._properties[name], name, lambda rule: self._canvas.rule_for(rule, size))


class ConditionEmbedder:
    """Embeds conditions, `rows` at once, and keeps those that were used last.

    A call of the model always has `rows` rows, the missing ones without conditions, so that its arithmetic, and
    therefore every image, never depends on what is embedded with it.
    """

    def __init__(self, model: LatentDiffusion, rows: int, size: tuple[int, int]) -> None:
        self._model, self._rows, self._size = model, rows, size
        self._kept = BoundedCache[bytes, Prepared](EMBEDDED_BYTES, lambda row: count_bytes(tuple(row)))
        self._null: Prepared | None = None

    @property
    def null(self) -> Prepared:
        """The embedding of no conditions."""
        if self._null is None:
            (self._null,) = self._embed([None])
        return self._null

    def embed_pairs(self, wanted: Sequence[ReadConditions]) -> list[tuple[Prepared, Prepared] | Exception]:
        """Return for each of `wanted` its row and the one that guidance compares it with, or why there is none.

        That is the row of its negative conditions, else of no conditions; see `LatentDiffusion.null_of`.
        """
        others = [one.negative for one in wanted if one.negative is not None]
        others += [one.toward[0] for one in wanted if one.toward is not None]
        found = {one.digest: row for one, row in zip(others, self.embed(others), strict=True)}
        pairs: list[tuple[Prepared, Prepared] | Exception] = []
        for one, row in zip(wanted, self.embed(wanted), strict=True):
            null = self.null if one.negative is None else found[one.negative.digest]
            end = row if one.toward is None else found[one.toward[0].digest]
            problem = next((part for part in (row, null, end) if isinstance(part, Exception)), None)
            if problem is not None:
                pairs.append(problem)
                continue
            assert isinstance(row, Prepared)
            assert isinstance(null, Prepared)
            assert isinstance(end, Prepared)
            mixed = row if one.toward is None else mix(row, end, one.toward[1])
            pairs.append((mixed, self._model.null_of(mixed, null)))
        return pairs

    def embed(self, wanted: Sequence[ReadConditions]) -> list[Prepared | Exception]:
        """Return one row for each of `wanted`, the same object for equal ones, or why it cannot be embedded."""
        found: dict[bytes, Prepared | Exception] = {}
        missing: dict[bytes, Mapping[str, Any] | None] = {}
        for one in wanted:
            if (kept := self._kept.get(one.digest)) is not None:
                found[one.digest] = kept
            else:
                missing[one.digest] = one.values
        for start in range(0, len(missing), self._rows):
            digests = list(missing)[start : start + self._rows]
            rows = each(self._embed, [missing[digest] for digest in digests])
            for digest, row in zip(digests, rows, strict=True):
                found[digest] = row
                if not isinstance(row, Exception):
                    self._kept.put(digest, row)
        return [found[one.digest] for one in wanted]

    def clear(self) -> None:
        """Free the device's memory."""
        self._kept.clear()
        self._null = None

    def _embed(self, requests: Sequence[Mapping[str, Any] | None]) -> list[Prepared]:
        padding = [None] * (self._rows - len(requests))
        with torch.inference_mode():
            prepared = self._model.conditions([*requests, *padding], self._size)
        return [prepared.row(i) for i in range(len(requests))]


def mix(row: Prepared, end: Prepared, share: float) -> Prepared:
    """Return a row that is a share of the way from one to another, along a straight line."""
    parts = zip(row, end, strict=True)
    return Prepared(*(None if a is None or b is None else torch.lerp(a, b, share) for a, b in parts))


def each(work: Callable[[Sequence[Input]], list[Result]], inputs: Sequence[Input]) -> list[Result | Exception]:
    """Return the results of `work` for all inputs at once. If that fails, try each alone, and return errors as results.

    Raises what concerns the whole device: that it has no memory left, or has failed.
    """
    try:
        return [*work(inputs)]
    except Exception as error:
        if concerns_device(error):
            raise
        return [error] if len(inputs) == 1 else [each(work, [one])[0] for one in inputs]


def digest_of(values: Mapping[str, Any]) -> bytes:
    """Return a digest of JSON values in which images may be bytes."""
    text = json.dumps(values, sort_keys=True, default=lambda body: {"sha256": hashlib.sha256(body).hexdigest()})
    return hashlib.sha256(text.encode()).digest()


def count_bytes(value: Any) -> int:
    """Return about how much memory a value takes, which may hold arrays and tensors."""
    if isinstance(value, Mapping):
        return sum(map(count_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(count_bytes, value))
    return 64 + (len(value) if isinstance(value, str) else getattr(value, "nbytes", 0))


def _integral(value: Any) -> Any:
    """Return a value with whole floats as integers, also in lists and objects."""
    if isinstance(value, dict):
        return {name: _integral(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_integral(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
