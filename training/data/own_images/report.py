"""Reports on a preparation: a bar or lines while it runs, a table and `report.json` in the end."""

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from training.data.own_images.assembly import Content, Selection, count_cut_texts, count_labels
from training.data.own_images.decoding import Problem
from training.data.own_images.source import Source
from training.model.conditioners.text_tokenizer import MAX_CHARACTERS

LINE_SECONDS = 5.0
LISTED = 100  # bad images of each kind in report.json
BAR_UPDATES = 20  # per second


class PreparationProgress:
    """Shows the progress of reading a source. Call it with the number of images so far and of bad ones among them."""

    def __init__(self, source: Source, console: Console) -> None:
        self.source, self.console = source, console
        self.began = time.monotonic()
        self.next = self.began + (0 if console.is_terminal else LINE_SECONDS)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self.task = self.bar.add_task("reading", total=source.total)

    @contextmanager
    def show(self) -> Iterator["PreparationProgress"]:
        """Show the bar while the context is open, if the console is a terminal."""
        if not self.console.is_terminal:
            yield self
            return
        with self.bar:
            yield self

    def __call__(self, found: int, bad: int) -> None:
        """Update the bar, or print a line every few seconds."""
        now = time.monotonic()
        if now < self.next:
            return
        if self.console.is_terminal:
            self.bar.update(self.task, completed=self.source.position, description=f"{found:,} images, {bad:,} bad")
            self.next = now + 1 / BAR_UPDATES
            return
        elapsed = now - self.began
        share = self.source.position / max(self.source.total, 1)
        left = f"{elapsed / share - elapsed:.0f}" if share else "?"
        line = f"{found:,} images ({100 * share:.0f} %), {bad:,} bad  {found / elapsed:.0f} a second"
        print(f"{line}, {elapsed:.0f} s, {left} s to go", flush=True)
        self.next = now + max(LINE_SECONDS, elapsed / 100)  # a long preparation prints fewer lines


def group_by_kind(bad: Mapping[str, Problem]) -> dict[str, dict[str, Any]]:
    """Group bad images by kind, the most frequent first: their count, and the first ones with their reasons."""
    kinds = Counter(problem.kind for problem in bad.values()).most_common()
    return {
        kind: {
            "count": count,
            "first": [{"name": name, "reason": bad[name].reason} for name in sorted(bad) if bad[name].kind == kind][
                :LISTED
            ],
        }
        for kind, count in sorted(kinds, key=lambda pair: (-pair[1], pair[0]))
    }


def build_report(
    selection: Selection, content: Content | None, others: Sequence[str], unread: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of `report.json`. content: None for a source that is refused. unread: reasons of tables."""
    sizes = [one.image.size for one in selection.usable.values()]
    document: dict[str, Any] = {
        "found": selection.found,
        "good": len(selection.usable),
        "bad": group_by_kind(selection.bad),
        "converted": dict(
            sorted(Counter(kind for one in selection.usable.values() for kind in one.image.conversions).items())
        ),
        "sizes": {
            side: {"min": min(values), "median": statistics.median_low(values), "max": max(values)}
            for side, values in (
                ("width", [size[0] for size in sizes]),
                ("height", [size[1] for size in sizes]),
                ("shorter", [min(size) for size in sizes]),
            )
            if values
        },
        "dropped_objects": selection.dropped_objects,
        "not_listed": {"count": len(selection.not_listed), "first": selection.not_listed[:LISTED]},
        "masks_of_others": {"count": len(selection.planes), "first": selection.planes[:LISTED]},
        "tables_not_read": dict(sorted(unread.items())),
        "other_files": dict(sorted(Counter(others).items())),
    }
    if content is not None:
        document |= {
            "train": content.train_count,
            "held_out": len(content.names) - content.train_count,
            "without_text": sum("text" not in record for record in content.records),
            "without_label": sum("label" not in record for record in content.records),
            "texts_cut": count_cut_texts(content),
            "classes": count_labels(content),
        }
    return document


def table(document: Mapping[str, Any], title: str) -> Table:
    """Return the report as a table."""
    rows = Table(title=title, show_header=False, title_justify="left")
    rows.add_column()
    rows.add_column(justify="right")
    rows.add_column(overflow="fold")

    def add(what: str, count: int, note: str = "") -> None:
        rows.add_row(what, f"{count:,}", note)

    add("images found", document["found"])
    add("good", document["good"], split_note(document))
    for kind, group in document["bad"].items():
        first = group["first"][0]
        add(f"bad: {kind}", group["count"], f"{first['name']}: {first['reason']}")
    for kind, count in document["converted"].items():
        add(f"converted: {kind}", count)
    for field in ("text", "label"):
        if document.get(f"without_{field}"):
            add(f"without {field}", document[f"without_{field}"])
    if document.get("texts_cut"):
        add("texts cut", document["texts_cut"], f"to {MAX_CHARACTERS:,} characters")
    if classes := document.get("classes"):
        names = [f"{name} {count:,}" for name, count in list(classes.items())[:12]]
        add("classes", len(classes), ", ".join(names) + (", ..." if len(classes) > 12 else ""))
    for side, span in document["sizes"].items():
        add(f"{side} side" if side == "shorter" else side, span["median"], f"{span['min']} to {span['max']} pixels")
    if document["dropped_objects"]:
        add("objects outside the crop", document["dropped_objects"], "dropped")
    if document["not_listed"]["count"]:
        add("not in the metadata", document["not_listed"]["count"], document["not_listed"]["first"][0])
    if document["masks_of_others"]["count"]:
        add(
            "masks of others",
            document["masks_of_others"]["count"],
            f"left out: {document['masks_of_others']['first'][0]}",
        )
    for name, reason in document["tables_not_read"].items():
        rows.add_row(f"not read: {name}", "", reason)
    for ending, count in document["other_files"].items():
        add(f"not read: {ending}", count)
    return rows


def split_note(document: Mapping[str, Any]) -> str:
    """Return how the good images are split."""
    if "train" not in document:
        return ""
    return f"{document['train']:,} for training, {document['held_out']:,} held out"
