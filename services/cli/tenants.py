"""`darkroom tenants`: who submits, and what they may."""

import json
from dataclasses import asdict, fields
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from services.cli.session import AsJson, connect_database
from services.errors import CommandError
from services.job_queue import tenants
from services.job_queue.tenants import Tenant

app = typer.Typer(help="Tenants: list, set. A new one: darkroom db add-tenant.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)


@app.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """Each tenant and what it may."""
    engine = connect_database("migrator")
    with engine.connect() as connection:
        rows = tenants.list_tenants(connection)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    table = Table(*(field.name.replace("_", " ") for field in fields(Tenant)), box=None)
    for row in rows:
        table.add_row(
            *(", ".join(value) if isinstance(value, list) else str(value or "") for value in asdict(row).values())
        )
    console.print(table)


@app.command("set")
def set_tenant(
    name: Annotated[str, typer.Argument(help="The tenant.")],
    weight: Annotated[float | None, typer.Option(min=0.001, max=1000, help="Its share beside the others'.")] = None,
    max_open_jobs: Annotated[int | None, typer.Option(min=0, help="Jobs that have not ended, at once.")] = None,
    max_job_images: Annotated[int | None, typer.Option(min=1, max=10_000_000, help="Images of one job.")] = None,
    retention_days: Annotated[
        int | None, typer.Option(min=0, max=36_500, help="Ended jobs and their images go after so many days; 0: never.")
    ] = None,
    permitted_release: Annotated[
        list[str] | None, typer.Option(help="A release's name, or *; may be repeated.")
    ] = None,
    read_prefix: Annotated[list[str] | None, typer.Option(help="Where its inputs may lie; may be repeated.")] = None,
    write_prefix: Annotated[list[str] | None, typer.Option(help="Where its outputs may lie; may be repeated.")] = None,
) -> None:
    """Change what a tenant may; what is not given stays."""
    given: dict[str, Any] = {
        "weight": weight,
        "max_open_jobs": max_open_jobs,
        "max_job_images": max_job_images,
        "retention_days": retention_days,
        "permitted_releases": permitted_release,
        "read_prefixes": read_prefix,
        "write_prefixes": write_prefix,
    }
    changes = {column: value for column, value in given.items() if value not in (None, [])}
    if not changes:
        raise CommandError("nothing to change: give at least one option, see darkroom tenants set --help")
    if changes.get("retention_days") == 0:
        changes["retention_days"] = None
    engine = connect_database("migrator")
    with engine.begin() as connection:
        if not tenants.update_tenant(connection, name, changes):
            known = ", ".join(tenants.tenant_names(connection))
            raise CommandError(f"tenant: {name!r} does not exist; permitted: {known}")
    console.print(f"Tenant {name} is changed.")
