"""`darkroom pictures`: looks at the pictures of a folder or an archive before anything is trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.commands import command_group
from services.cli.session import AsJson
from services.cli.terminal import print_json
from services.errors import CommandError

if TYPE_CHECKING:
    from rich.table import Table

    from training.data.own_images.inspection import Inspection

app = command_group("Inspect images before training.")
FIRST = 3  # names that are shown of each reason


@app.callback()
def pictures() -> None:
    """Inspect images before training."""


@app.command()
def inspect(
    source: Annotated[str, typer.Argument(metavar="PICTURES", help="A folder, an archive or s3://bucket/prefix/.")],
    sheet: Annotated[
        Path | None, typer.Option(help="A PNG to write: histograms of sizes and classes, and a contact sheet.")
    ] = None,
    look: Annotated[int, typer.Option(help="The number of pictures to open, evenly spread.", min=1)] = 512,
    as_json: AsJson = False,
) -> None:
    """Show how images would be read: counts, sizes, classes, captions, splits, and what would be left out.

    All files are listed and all tables read. Sizes, duplicates and odd pictures are those of the pictures it opens.
    """
    from training.data.image_set import DataError
    from training.data.own_images.inspection import inspect as inspect_source

    try:
        found = inspect_source(source, look)
    except DataError as error:
        raise CommandError(str(error).replace("data.root:", "PICTURES:", 1)) from None
    summary = summarise(found)
    if sheet is not None:
        from training.previews import inspection_sheet

        try:
            inspection_sheet.save(sheet, found)
        except (OSError, ValueError) as error:
            raise CommandError(f"--sheet: {sheet} cannot be written ({error})") from None
    if as_json:
        print_json(summary)
        return
    from rich.console import Console

    Console(highlight=False).print(table(summary))
    if sheet is not None:
        typer.echo(sheet)


def summarise(found: "Inspection") -> dict[str, Any]:
    """Return an inspection as JSON."""
    from training.data.own_images.looks import near_duplicates, odd_ones

    pairs = near_duplicates(found.looks)
    sides = sorted(min(one.size) for one in found.looks)

    def group(names: list[str]) -> dict[str, Any]:
        return {"count": len(names), "first": names[:FIRST]}

    return {
        "source": found.source,
        "read_as": found.kind,
        "images": found.images,
        "all_listed": found.complete,
        "looked_at": len(found.looks),
        "channels": found.channels,
        "shorter_side": {"min": sides[0], "median": sides[len(sides) // 2], "max": sides[-1]} if sides else {},
        "square": sum(one.size[0] == one.size[1] for one in found.looks),
        "labels_from": found.labels_from,
        "classes": found.classes,
        "name_groups": found.name_groups,
        "splits": found.splits,
        "with_text": found.with_text,
        "texts": found.texts,
        "tables": found.tables,
        "left_out": {reason: group(names) for reason, names in found.left_out.items()},
        "classes_alike": found.alike,
        "classes_held_out": found.untrained,
        "near_duplicates": [list(pair) for pair in pairs],
        "near_duplicates_held_out": sum((one in found.held_out) != (other in found.held_out) for one, other in pairs),
        "odd": {reason: group(names) for reason, names in odd_ones(found.looks, found.labels, found.classes).items()},
    }


def table(summary: dict[str, Any]) -> "Table":
    """Return the summary as a table."""
    from rich.markup import escape
    from rich.table import Table

    rows = Table(title=escape(f"{summary['source']}, read as {summary['read_as']}"), show_header=False,
                 title_justify="left")  # fmt: skip
    rows.add_column()
    rows.add_column(justify="right")
    rows.add_column(overflow="fold")

    def add(what: str, count: Any = "", note: str = "") -> None:
        rows.add_row(escape(what), f"{count:,}" if isinstance(count, int) else count, escape(note))

    stream = "" if summary["all_listed"] else f"at least; the first {summary['images']:,} were read (--look)"
    add("images", summary["images"], stream)
    colours = "grey: data.channels is 1" if summary["channels"] == 1 else "in colour" if summary["looked_at"] else ""
    add("looked at", summary["looked_at"], colours)
    if side := summary["shorter_side"]:
        add("shorter side", side["median"], f"{side['min']} to {side['max']} pixels; {summary['square']:,} are square")
    classes = summary["classes"]
    listed = ", ".join(f"{name} {count:,}" for name, count in list(classes.items())[:20])
    add("classes", len(classes), f"from {summary['labels_from']}: {listed}" + (", ..." if len(classes) > 20 else "")
        if classes else "no labels")  # fmt: skip
    if groups := summary["name_groups"]:
        words = ", ".join(f"{name} {count:,}" for name, count in list(groups.items())[:FIRST])
        more = ", ..." if len(groups) > FIRST else ""
        add("names begin with", len(groups), f"{words}{more}; in folders of these names they would be classes")
    for names in summary["classes_alike"]:
        add("classes alike", len(names), f"{', '.join(map(repr, names))} differ in upper case or spaces alone")
    if held := summary["classes_held_out"]:
        add("classes held out", len(held), f"never trained on: {', '.join(held[:FIRST])}")
    texts = [" ".join(text.split())[:60] for text in summary["texts"][:FIRST]]
    add("with a caption", summary["with_text"], " | ".join(texts))
    splits = summary["splits"]
    add("held out", splits.get("held_out", ""), "by the user's split" if splits else "a share, chosen by name")
    for name, what in summary["tables"].items():
        add(f"table {name}", "", what)
    for title, groups in (("left out", summary["left_out"]), ("odd", summary["odd"])):
        for reason, found in groups.items():
            add(f"{title}: {reason}", found["count"], ", ".join(found["first"]))
    pairs = summary["near_duplicates"]
    leaked = summary["near_duplicates_held_out"]
    across = f"{leaked:,} of one that is held out and one that is trained on; " if leaked else ""
    add("near duplicates", len(pairs), across + "; ".join(f"{copy} of {first}" for first, copy in pairs[:FIRST]))
    return rows
