"""Reads CSV files of images, also those with a backslash before quotes, or commas in captions without quotes."""

import csv
import io
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence

from training.data.image_set import DataError
from training.data.own_images.names import is_image
from training.data.own_images.records import (
    LABEL_FIELDS,
    OTHER_FIELDS,
    SPLIT_FIELDS,
    TEXT_FIELDS,
    decode_text,
    file_field,
    plain_name,
)

SEPARATORS = ",;\t|"
FIELD_LIMIT = 1 << 24  # characters of a field
ESCAPED_QUOTE = re.compile(r'\\"(?![",;\t|\r\n]|$)')  # a quote that cannot end its field
NUMBER = re.compile(r"-?\d+(\.\d+)?")
READ = {*TEXT_FIELDS, *LABEL_FIELDS, *SPLIT_FIELDS, *OTHER_FIELDS}  # fields besides the image
QUOTE = "\0"  # in place of an escaped quote while the text is split


def read_csv(name: str, data: bytes, origin: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the place and the fields of each row. Raises DataError.

    Without a header, the first column is the image, and the second is its label, or its text if `caption` is in the
    name of the file.
    """
    text = decode_text(data, origin)
    if text.startswith("sep="):  # as Excel writes and reads it
        text = text.partition("\n")[2]
    if ESCAPED_QUOTE.search(text):
        text = text.replace('\\"', QUOTE)
    separator = find_separator(text.partition("\n")[0])
    csv.field_size_limit(FIELD_LIMIT)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header: list[str] | None = None
    try:
        for line in lines:
            cells = [cell.replace(QUOTE, '"') for cell in line]
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = find_header(cells, separator, name, origin)
                if not is_image(cells[0].strip()):
                    continue
            where = f"{origin}:{lines.line_num}"
            yield where, dict(zip(header, fit(cells, header, separator, where), strict=False))
    except csv.Error as error:
        raise DataError(f"data.root: {origin}:{lines.line_num} is not CSV ({error})") from None


def find_cells(data: bytes, origin: str) -> list[str]:
    """Return the cells of the first line. Raises DataError."""
    first = decode_text(data, origin).partition("\n")[0]
    return [cell.strip() for cell in first.split(find_separator(first))]


def find_separator(first: str) -> str:
    """Return what separates the columns of the first line: first of all, what makes its first cell an image's name."""

    def rank(separator: str) -> tuple[bool, int]:
        cells = [cell.strip().strip('"') for cell in first.split(separator)]
        return len(cells) > 1 and (is_image(cells[0]) or file_field(cells) is not None), len(cells)

    found = max(SEPARATORS, key=rank)
    return " " if not rank(found)[0] and is_image(first.partition(" ")[0]) else found


def find_header(first: Sequence[str], separator: str, name: str, origin: str) -> list[str]:
    """Return the names of the columns, by the cells of the first line. Columns of numbers may follow a label.

    Raises DataError if they have no names and there are more than two.
    """
    if not is_image(first[0].strip()):
        return [cell.strip() for cell in first]
    file = posixpath.basename(name).lower()
    if "caption" in file:
        return ["file_name", "text"]
    if "partition" in file:  # of CelebA
        return ["file_name", "partition"]
    numbers = [NUMBER.fullmatch(cell.strip()) is not None for cell in first[1:]]
    if len(first) <= 2 or (all(numbers[1:]) and not numbers[0]) or (separator == " " and not any(numbers)):
        return ["file_name", "label", *[""] * sum(numbers[1:])]
    raise DataError(
        f"data.root: {origin} has {len(first)} columns and no header; write a first line that names them, such as "
        "file_name,label"
    )


def fit(cells: Sequence[str], header: Sequence[str], separator: str, where: str) -> Sequence[str]:
    """Return the cells of a row, of which the last may hold separators if it is a caption or they are spaces.

    Raises DataError for other rows that are longer than the header, and for a quote that takes in the next rows.
    """
    for cell in cells:
        if "\n" in cell and any(is_image(line.partition(separator)[0].strip(' "')) for line in cell.split("\n")[1:]):
            raise DataError(f"data.root: {where}: a quote does not end: {cell[:40]!r}; write it twice, in quotes")
    if not any(cell.strip() for cell in cells[len(header) :]) or not READ.intersection(map(plain_name, header)):
        return cells
    if separator == " " or plain_name(header[-1]) in TEXT_FIELDS:
        return [*cells[: len(header) - 1], separator.join(cells[len(header) - 1 :])]
    raise DataError(
        f"data.root: {where} has {len(cells)} columns, and the table {len(header)}; put quotes around values that hold "
        f"{separator!r}"
    )
