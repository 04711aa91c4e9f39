"""`darkroom releases`: what has been published and what its aliases point at."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from services.cli.session import AsJson, connect, connect_database

app = typer.Typer(help="Published releases and their aliases.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)
Reference = Annotated[str, typer.Argument(help="name, name@alias or name@version")]


@app.command("list")
def list_releases(as_json: AsJson = False) -> None:
    """List every release, newest last."""
    from services.registry import aliases, releases

    engine = connect_database("publisher")
    with engine.connect() as connection:
        rows = releases.list_releases(connection)
        described: list[dict[str, Any]] = [
            {
                "name": row.name,
                "version": row.version,
                "kind": row.kind,
                "aliases": aliases.aliases_of(connection, row.id),
                "digest": row.digest,
                "created_at": row.created_at.isoformat(timespec="seconds"),
            }
            for row in rows
        ]
    if as_json:
        typer.echo(json.dumps(described))
    elif not described:
        console.print("No release has been published. Train and publish one with: darkroom pipeline run")
    else:
        table = Table("release", "kind", "aliases", "digest", "published", box=None)
        for row in described:
            name = f"{row['name']}@{row['version']}"
            table.add_row(name, row["kind"], ", ".join(row["aliases"]), row["digest"][:12], row["created_at"])
        console.print(table)


@app.command()
def show(reference: Reference, as_json: AsJson = False) -> None:
    """Show a release: shapes, conditions, metrics, lineage and files."""
    from services.registry import releases
    from services.registry.aliases import aliases_of
    from services.registry.evaluations import list_evaluations

    engine = connect_database("publisher")
    with engine.connect() as connection:
        row = releases.find(connection, reference)
        aliases = aliases_of(connection, row.id)
        evaluations = list_evaluations(connection, row.id)
    manifest = row.manifest
    if as_json:
        scores = [{"fingerprint": e.fingerprint, "metrics": e.metrics} for e in evaluations]
        about = {"version": row.version, "aliases": aliases, "origin": row.origin, "published_by": row.published_by}
        typer.echo(json.dumps({**about, "evaluations": scores, **manifest}))
        return
    table = Table(box=None, show_header=False)
    table.add_row("release", f"{row.name}@{row.version} ({row.kind})")
    table.add_row("aliases", ", ".join(aliases) or "none")
    table.add_row("digest", row.digest)
    for field in ("image_shape", "latent_shape"):
        table.add_row(field.replace("_", " "), " x ".join(map(str, manifest[field])))
    for name, rule in manifest["conditions"].get("properties", {}).items():
        table.add_row("condition", f"{name}: {json.dumps(rule)}")
    for name, value in (("published by", row.published_by), *row.origin.items()):
        table.add_row(name, value)
    for parent in ("autoencoder", "initial"):
        if parent in manifest["lineage"]:
            table.add_row(f"its {parent}", manifest["lineage"][parent][:12])
    for score in evaluations:
        table.add_row("evaluation", f"[bold]{score.fingerprint[:12]}[/] of {score.created_at:%Y-%m-%d %H:%M}")
        for name, value in score.metrics.items():
            if not name.endswith(("fingerprint", "digest")):
                table.add_row("", f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    for name, record in manifest["files"].items():
        table.add_row("file", f"{name}  {record['bytes']:,} bytes  sha256 {record['sha256'][:12]}")
    console.print(table)


@app.command()
def promote(
    reference: Reference, alias: Annotated[str, typer.Option(help="The alias to point at it.")] = "production"
) -> None:
    """Point an alias at a release; the move is written down."""
    from services.registry import aliases

    engine = connect_database("publisher")
    with engine.begin() as connection:
        row = aliases.promote(connection, reference, alias)
    console.print(f"{row.name}@{alias} is now version {row.version}.")


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The name of the release.")],
    alias: Annotated[str, typer.Option(help="The alias to point back.")] = "production",
) -> None:
    """Point an alias back at what it was before its last promotion; the move is written down."""
    from services.registry import aliases

    engine = connect_database("publisher")
    with engine.begin() as connection:
        row = aliases.rollback(connection, name, alias)
    console.print(f"{name}@{alias} is version {row.version} again.")


@app.command()
def history(name: Annotated[str, typer.Argument(help="The name of the release.")], as_json: AsJson = False) -> None:
    """List every move of the aliases of a name: from which version to which, when, by whose login."""
    from services.registry import aliases

    engine = connect_database("publisher")
    with engine.connect() as connection:
        moves = aliases.list_promotions(connection, name)
    if as_json:
        typer.echo(json.dumps([{**asdict(move), "promoted_at": move.promoted_at.isoformat()} for move in moves]))
        return
    table = Table("alias", "from", "to", "at", "by", "", box=None)
    for move in moves:
        at = f"{move.promoted_at:%Y-%m-%d %H:%M:%S}"
        back = "rollback" if move.rollback else ""
        table.add_row(move.alias, str(move.before or ""), str(move.after), at, move.promoted_by, back)
    console.print(table if moves else f"No alias of {name!r} was ever moved.")


@app.command()
def diff(
    one: Reference,
    other: Reference,
    output: Annotated[Path, typer.Option(help="The PNG to write: both sample sheets.")] = Path("diff.png"),
    as_json: AsJson = False,
) -> None:
    """Show in what two releases differ: settings, figures that compare, sample sheets side by side."""
    from services.cli import release_diff

    settings, engine = connect("publisher")
    with engine.connect() as connection:
        found = release_diff.differences(connection, one, other)
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    console.print(found.settings_table(), found.figures_table(), sep="\n\n")
    if release_diff.draw(found, settings, output):
        console.print(f"\n{output.resolve()}")
