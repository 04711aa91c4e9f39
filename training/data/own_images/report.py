"""What a preparation tells: a bar or lines while it runs, a table and `report.json` in the end."""

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from training.data.own_images.assembly import Content, Judged, counted
from training.data.own_images.decoding import Problem
from training.data.own_images.sources import Source

LINE_SECONDS = 5.0
NAMED = 100  # bad pictures of each kind
BAR_SHARE = 20  # updates of the bar a second


class PreparationProgress:
    """Shows how far the reading of a source is: call it with the pictures so far and the bad ones among them."""

    def __init__(self, source: Source, console: Console) -> None:
        self.source, self.console = source, console
        self.began = time.monotonic()
        self.next = self.began + (0 if console.is_terminal else LINE_SECONDS)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self.task = self.bar.add_task("reading", total=source.total)

    @contextmanager
    def shown(self) -> Iterator["PreparationProgress"]:
        """The bar, on a terminal."""
        if not self.console.is_terminal:
            yield self
            return
        with self.bar:
            yield self

    def __call__(self, found: int, bad: int) -> None:
        """Show it, now and then."""
        now = time.monotonic()
        if now < self.next:
            return
        if self.console.is_terminal:
            self.bar.update(self.task, completed=self.source.position, description=f"{found:,} pictures, {bad:,} bad")
            self.next = now + 1 / BAR_SHARE
            return
        elapsed = now - self.began
        share = self.source.position / max(self.source.total, 1)
        left = f"{elapsed / share - elapsed:.0f}" if share else "?"
        line = f"{found:,} pictures ({100 * share:.0f} %), {bad:,} bad  {found / elapsed:.0f} a second"
        print(f"{line}, {elapsed:.0f} s, {left} s to go", flush=True)
        self.next = now + max(LINE_SECONDS, elapsed / 100)  # a long preparation does not fill its log


def grouped(bad: Mapping[str, Problem]) -> dict[str, dict[str, Any]]:
    """Bad pictures by kind, the most frequent first: how many, and the first ones with their reasons."""
    kinds = Counter(problem.kind for problem in bad.values()).most_common()
    return {
        kind: {
            "count": count,
            "first": [{"name": name, "reason": bad[name].reason} for name in sorted(bad) if bad[name].kind == kind][
                :NAMED
            ],
        }
        for kind, count in sorted(kinds, key=lambda pair: (-pair[1], pair[0]))
    }


def report(judged: Judged, content: Content | None, others: Sequence[str]) -> dict[str, Any]:
    """All that is to be told, ready for JSON. content: None for a source that is refused."""
    sizes = [one.picture.size for one in judged.usable.values()]
    document: dict[str, Any] = {
        "found": judged.found,
        "good": len(judged.usable),
        "bad": grouped(judged.bad),
        "converted": dict(
            sorted(Counter(kind for one in judged.usable.values() for kind in one.picture.conversions).items())
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
        "dropped_objects": judged.dropped_objects,
        "not_listed": {"count": len(judged.not_listed), "first": judged.not_listed[:NAMED]},
        "other_files": dict(sorted(Counter(others).items())),
    }
    if content is not None:
        document |= {
            "train": content.train_count,
            "held_out": len(content.names) - content.train_count,
            "without_text": sum("text" not in record for record in content.records),
            "without_label": sum("label" not in record for record in content.records),
            "classes": counted(content),
        }
    return document


def table(document: Mapping[str, Any], title: str) -> Table:
    """The report, to be printed."""
    shown = Table(title=title, show_header=False, title_justify="left")
    shown.add_column()
    shown.add_column(justify="right")
    shown.add_column(overflow="fold")

    def add(what: str, count: int, note: str = "") -> None:
        shown.add_row(what, f"{count:,}", note)

    add("pictures found", document["found"])
    add("good", document["good"], split_note(document))
    for kind, group in document["bad"].items():
        first = group["first"][0]
        add(f"bad: {kind}", group["count"], f"{first['name']}: {first['reason']}")
    for kind, count in document["converted"].items():
        add(f"converted: {kind}", count)
    for field in ("text", "label"):
        if document.get(f"without_{field}"):
            add(f"without {field}", document[f"without_{field}"])
    if classes := document.get("classes"):
        names = [f"{name} {count:,}" for name, count in list(classes.items())[:12]]
        add("classes", len(classes), ", ".join(names) + (", ..." if len(classes) > 12 else ""))
    for side, span in document["sizes"].items():
        add(f"{side} side" if side == "shorter" else side, span["median"], f"{span['min']} to {span['max']} pixels")
    if document["dropped_objects"]:
        add("objects outside the crop", document["dropped_objects"], "dropped")
    if document["not_listed"]["count"]:
        add("not in metadata.jsonl", document["not_listed"]["count"], document["not_listed"]["first"][0])
    for ending, count in document["other_files"].items():
        add(f"not read: {ending}", count)
    return shown


def split_note(document: Mapping[str, Any]) -> str:
    """How the good pictures are divided."""
    if "train" not in document:
        return ""
    return f"{document['train']:,} for training, {document['held_out']:,} held out"
