"""`darkroom releases`: published releases and their aliases."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.commands import COMMANDS, command_group
from services.cli.release_fields import release_fields
from services.cli.session import AsJson, connect, connect_database
from services.cli.terminal import print_json, print_table
from services.errors import CommandError

app = command_group(COMMANDS["releases"].help)
Reference = Annotated[str, typer.Argument(help="name, name@alias or name@version")]
Name = Annotated[str, typer.Argument(help="The name of the release.")]


class Precision(StrEnum):
    """A precision that a release can ask for."""

    FP32 = "fp32"


@app.command("list")
def list_releases(as_json: AsJson = False) -> None:
    """List releases, newest last."""
    from services.registry import releases
    from services.registry.aliases import aliases_of

    engine = connect_database("publisher")
    with engine.connect() as connection:
        rows: list[dict[str, Any]] = [
            {
                "name": row.name,
                "version": row.version,
                "kind": row.kind,
                "aliases": aliases_of(connection, row.id),
                "digest": row.digest,
                "created_at": row.created_at.isoformat(timespec="seconds"),
                "retired_at": row.retired_at and row.retired_at.isoformat(timespec="seconds"),
            }
            for row in releases.list_releases(connection)
        ]
    if as_json:
        print_json(rows)
    elif not rows:
        typer.echo("There are no releases. Train and publish one with: darkroom pipeline run")
    else:
        cells = [
            (
                f"{r['name']}@{r['version']}",
                r["kind"],
                "retired" if r["retired_at"] else ", ".join(r["aliases"]),
                r["digest"][:12],
                r["created_at"],
            )
            for r in rows
        ]
        print_table(("release", "kind", "aliases", "digest", "published"), cells)


@app.command()
def show(
    reference: Reference,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of requests to the release instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a release: shapes, conditions, metrics, lineage and files."""
    from services.job_requests.schema import published_schema
    from services.registry import releases
    from services.registry.aliases import aliases_of
    from services.registry.evaluations import list_evaluations

    engine = connect_database("publisher")
    with engine.connect() as connection:
        row = releases.find(connection, reference, retired=True)
        aliases = aliases_of(connection, row.id)
        evaluations = list_evaluations(connection, row.id)
    if schema:
        if row.kind != "diffusion":
            raise CommandError(f"--schema: {reference} is an {row.kind}; permitted: diffusion releases")
        print_json(published_schema(releases.request_rules(row.manifest)))
    elif as_json:
        scores = [{"fingerprint": e.fingerprint, "metrics": e.metrics} for e in evaluations]
        about = {"version": row.version, "aliases": aliases, "origin": row.origin, "published_by": row.published_by}
        print_json({**about, "evaluations": scores, **row.manifest})
    else:
        print_table((), release_fields(row, aliases, evaluations))


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="A release folder, which training or `darkroom import` wrote.")],
    name: Annotated[str | None, typer.Option(help="Publish under this name; default: the release's own.")] = None,
    alias: Annotated[
        str | None, typer.Option(help="Point this alias at it, such as production; default: none.")
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Always serve it in fp32; default: by the worker's profile."),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=2, help="Serve it with at most this many rows.")] = None,
    steps: Annotated[int | None, typer.Option(help="Default number of steps of requests.")] = None,
    solver: Annotated[str | None, typer.Option(help="Default solver of requests.")] = None,
    spacing: Annotated[str | None, typer.Option(help="Default spacing of requests.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Default guidance scale of requests.")] = None,
    decoder: Annotated[str | None, typer.Option(help="Default decoder of requests: full or light.")] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a release folder as the next version of its name.

    Content that this name has already keeps its version.
    """
    from services.cli import publishing
    from training.model.release import Serve

    settings, engine = connect("publisher")
    serve = Serve("fp32" if precision is Precision.FP32 else None, rows)
    given: dict[str, Any] = {"steps": steps, "solver": solver, "spacing": spacing, "guidance_scale": guidance_scale}
    given["decoder"] = decoder
    sampling = {field: value for field, value in given.items() if value is not None}
    published = publishing.publish(settings, engine, folder, name=name, alias=alias, serve=serve, sampling=sampling)
    publishing.print_published(published, as_json=as_json)


@app.command()
def fetch(
    reference: Reference,
    folder: Annotated[Path, typer.Argument(help="The folder to write: new or empty.")],
    as_json: AsJson = False,
) -> None:
    """Download a published release into a folder."""
    from services.cli import publishing

    settings, engine = connect("publisher")
    fetched = publishing.fetch(settings, engine, reference, folder)
    if as_json:
        print_json(fetched)
    else:
        typer.echo(f"{folder} is {fetched['name']}@{fetched['version']}, digest {fetched['digest'][:12]}")


@app.command()
def warm(
    references: Annotated[list[str] | None, typer.Argument(help="name, name@alias or name@version")] = None,
    alias: Annotated[str | None, typer.Option(help="Also every release that this alias points at.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch releases into the cache of this machine, before a worker needs them."""
    from services.registry import releases
    from services.registry.release_cache import ReleaseCache
    from services.storage.object_store import ObjectStore

    if not references and alias is None:
        raise CommandError("nothing to fetch: give at least one release, or --alias")
    settings, engine = connect("worker")
    with engine.connect() as connection:
        rows = [releases.find(connection, reference) for reference in references or ()]
        rows += releases.list_with_alias(connection, alias) if alias else []
    cache = ReleaseCache(ObjectStore.connect(settings), settings.cache_dir, settings.cache_gb, settings.cache_seed)
    answer = []
    for row in {row.digest: row for row in rows}.values():
        new = not cache.holds(row.digest)
        with cache.hold(row.manifest) as folder:
            answer.append({"name": row.name, "version": row.version, "path": str(folder), "new": new})
        if not as_json:
            typer.echo(f"{row.name}@{row.version} is {'fetched to' if new else 'already in'} {folder}")
    if as_json:
        print_json(answer)


@app.command()
def promote(
    reference: Reference,
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "production",
    as_json: AsJson = False,
) -> None:
    """Point an alias at a release. The move is recorded."""
    from services.registry import aliases

    engine = connect_database("publisher")
    with engine.begin() as connection:
        row = aliases.promote(connection, reference, alias)
    if as_json:
        print_json({"name": row.name, "alias": alias, "version": row.version})
    else:
        typer.echo(f"{row.name}@{alias} is now version {row.version}.")


@app.command()
def rollback(
    name: Name,
    alias: Annotated[str, typer.Option(help="The alias to move back.")] = "production",
    as_json: AsJson = False,
) -> None:
    """Point an alias back at the release before its last promotion. The move is recorded."""
    from services.registry import aliases

    engine = connect_database("publisher")
    with engine.begin() as connection:
        row = aliases.rollback(connection, name, alias)
    if as_json:
        print_json({"name": name, "alias": alias, "version": row.version})
    else:
        typer.echo(f"{name}@{alias} is version {row.version} again.")


@app.command()
def retire(
    reference: Annotated[str, typer.Argument(help="name@version")],
    undo: Annotated[bool, typer.Option("--undo", help="Bring a retired release back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Retire a release: no new job can use it.

    Its files are pruned once no open job needs them. Refused while an alias points at it.
    """
    from services.job_queue.release_use import count_open_jobs
    from services.registry import retirement

    engine = connect_database("migrator")
    with engine.begin() as connection:
        row = (retirement.bring_back if undo else retirement.retire)(connection, reference)
        open_jobs = count_open_jobs(connection, row.id)
    if as_json:
        print_json({"name": row.name, "version": row.version, "retired": not undo, "open_jobs": open_jobs})
    elif undo:
        typer.echo(f"{row.name}@{row.version} can be used again. Publish it again if its files were pruned.")
    else:
        typer.echo(f"{row.name}@{row.version} is retired; {open_jobs} open jobs still use it.")


@app.command()
def history(name: Name, as_json: AsJson = False) -> None:
    """List the moves of a release's aliases: versions, time and login."""
    from services.registry import aliases

    engine = connect_database("publisher")
    with engine.connect() as connection:
        moves = aliases.list_promotions(connection, name)
    if as_json:
        print_json([{**asdict(move), "promoted_at": move.promoted_at.isoformat()} for move in moves])
        return
    cells = [
        (
            move.alias,
            str(move.before or ""),
            str(move.after),
            f"{move.promoted_at:%Y-%m-%d %H:%M:%S}",
            move.promoted_by,
            "rollback" if move.rollback else "",
        )
        for move in moves
    ]
    if cells:
        print_table(("alias", "from", "to", "at", "by", ""), cells)
    else:
        typer.echo(f"No alias of {name!r} has ever been moved.")


@app.command()
def diff(
    one: Reference,
    other: Reference,
    output: Annotated[Path, typer.Option(help="The PNG to write, with the sample sheets of both releases.")] = Path(
        "diff.png"
    ),
    as_json: AsJson = False,
) -> None:
    """Compare two releases: settings, comparable metrics, and sample sheets side by side."""
    from services.cli import release_diff

    settings, engine = connect("publisher")
    with engine.connect() as connection:
        found = release_diff.compare(connection, one, other)
    if as_json:
        print_json(found.to_json())
        return
    print_table(("setting", *found.names), found.setting_rows() or [("no difference", "", "")])
    typer.echo()
    no_metrics = [("no evaluations with the same settings", "", "", "")]
    print_table(("metric", *found.names, "change"), found.metric_rows() or no_metrics)
    if release_diff.write_sheets(found, settings, output):
        typer.echo(f"\n{output.resolve()}")
