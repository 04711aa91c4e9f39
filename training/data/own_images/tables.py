"""Reads tables of images: CSV, JSON Lines, JSON and parquet files whose rows name an image.

metadata.jsonl     {"file_name": "cat.png", "text": ...} in each line
metadata.csv       file_name,text
                   cat.png,a cat
metadata.json      [{"file_name": "cat.png", "text": ...}, ...], also as the only list in an object
captions.json      {"cat.png": "a cat"} or {"cat.png": {"caption": "a cat"}}, as kohya's scripts write
dataset.json       {"labels": [["cat.png", 0], ...]}, as StyleGAN's tools write
instances.json     {"images": [...], "annotations": [...], "categories": [...]}, as COCO's
"""

import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from training.data.image_set import DataError
from training.data.own_images import parquet
from training.data.own_images.csv_tables import find_cells, read_csv
from training.data.own_images.names import is_image, is_metadata, is_split_list
from training.data.own_images.records import FILE_FIELDS, decode_text, file_field, parse_object
from training.data.own_images.split_lists import read_split_list

Row = tuple[str, Mapping[str, Any]]  # the place, for messages, and the fields; the image is in "file_name"
COLUMNS_SHOWN = 12


class NoImagesError(DataError):
    """A table does not name images; the message says why."""


def read_table(name: str, data: bytes, origin: str) -> Iterator[Row]:
    """Yield the rows of a table. Raises NoImagesError at its start, or DataError naming the row."""
    ending = posixpath.splitext(name.lower())[1]
    if ending in (".jsonl", ".ndjson"):
        return name_images(read_lines(data, origin), is_metadata(name))
    if is_split_list(name) and file_field(find_cells(data, origin)) is None:
        return read_split_list(data, origin)
    if ending in (".csv", ".tsv", ".txt"):
        return name_images(read_csv(name, data, origin), False)
    if ending == ".parquet":
        rows = enumerate(parquet.read_table(data, origin), 1)
        return name_images(((f"{origin}: row {number}", row) for number, row in rows), False)
    return read_json(name, data, origin)


def name_images(rows: Iterable[Row], needed: bool) -> Iterator[Row]:
    """Yield the rows with the image in "file_name". needed: each row has to name one, the first one in any case."""
    for number, (where, row) in enumerate(rows):
        field = file_field(row)
        image = row.get(field) if field else None
        if type(image) is int and field in ("id", "image_id"):
            image = str(image)
        if isinstance(image, str) and image.strip():
            yield where, {**row, "file_name": image.strip()}
        elif needed:
            raise DataError(f"data.root: {where} has no file_name; each line names its image")
        elif number == 0:
            columns = ", ".join(map(str, list(row)[:COLUMNS_SHOWN])) or "nothing"
            columns += f" and {len(row) - COLUMNS_SHOWN:,} more" if len(row) > COLUMNS_SHOWN else ""
            raise NoImagesError(
                f"has the columns {columns}; one that names images is {', '.join(FILE_FIELDS[:4])}, ..."
            )


def read_lines(data: bytes, origin: str) -> Iterator[Row]:
    """Yield the objects of JSON Lines, which end at line feeds alone."""
    for number, line in enumerate(decode_text(data, origin).split("\n"), 1):
        if line.strip():
            yield f"{origin}:{number}", parse_object(line, f"{origin}:{number}")


def read_json(name: str, data: bytes, origin: str) -> Iterator[Row]:
    """Yield the rows of a JSON file in one of the forms above."""
    text = decode_text(data, origin)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        try:  # JSON Lines of another name
            document = [json.loads(line) for line in text.split("\n") if line.strip()]
        except (ValueError, RecursionError):
            raise DataError(f"data.root: {origin} is not JSON ({error})") from None
    if isinstance(document, dict) and isinstance(document.get("images"), list) and "annotations" in document:
        return coco_rows(document, origin)
    if isinstance(document, dict) and "labels" in document and len(document) <= 2:
        pairs = document["labels"] or []  # null: no labels
        document = {pair[0]: pair[1] for pair in pairs if isinstance(pair, list) and len(pair) == 2}
        if any(isinstance(label, list) for label in document.values()):
            raise DataError(f"data.root: {origin} has labels that are lists of numbers; a label is one number or name")
        return ((f"{origin}: {image}", {"file_name": image, "label": label}) for image, label in document.items())
    if isinstance(document, dict) and not any(map(is_image, document)):
        lists = [value for value in document.values() if isinstance(value, list)]
        document = lists[0] if len(lists) == 1 and lists[0] else document
    if isinstance(document, dict):
        return mapping_rows(document, "label" if "label" in posixpath.basename(name).lower() else "text", origin)
    if not isinstance(document, list) or not all(isinstance(one, dict) for one in document):
        raise NoImagesError("is not a list of objects, each with a file_name")
    return name_images(((f"{origin}: entry {number}", one) for number, one in enumerate(document)), False)


def mapping_rows(document: Mapping[str, Any], field: str, origin: str) -> Iterator[Row]:
    """Yield the rows of {image: caption}, {image: label} or {image: {"caption": ..., ...}}."""
    if not document or not any(is_image(key) or isinstance(value, dict) for key, value in document.items()):
        raise NoImagesError("does not map images to captions or labels")
    for image, value in document.items():
        if isinstance(value, dict):
            own_field = None if is_image(image) else file_field(value)  # VIA's keys are names and sizes of files
            own = value.get(own_field) if own_field else None
            yield f"{origin}: {image}", {**value, "file_name": own if isinstance(own, str) and is_image(own) else image}
        else:
            yield f"{origin}: {image}", {"file_name": image, field if isinstance(value, str | list) else "label": value}


def coco_rows(document: Mapping[str, Any], origin: str) -> Iterator[Row]:
    """Yield an image's first caption and its boxes from COCO's lists. Raises DataError."""
    try:
        names = {one["id"]: one["name"] for one in document.get("categories", ())}
        rows: dict[Any, dict[str, Any]] = {
            one["id"]: {"file_name": one["file_name"]} for one in document["images"] if one["file_name"]
        }
        for one in document["annotations"]:
            row = rows.get(one["image_id"], {})
            if "caption" in one:
                row.setdefault("text", one["caption"])
            elif "bbox" in one:
                x, y, width, height = one["bbox"]
                box = {"label": names[one["category_id"]], "box": [x, y, x + width, y + height]}
                row.setdefault("boxes", []).append(box)
            elif "category_id" in one:
                row.setdefault("label", names[one["category_id"]])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"data.root: {origin} is not in COCO's form ({type(error).__name__}: {error})") from None
    return ((f"{origin}: {row['file_name']}", row) for row in rows.values())
