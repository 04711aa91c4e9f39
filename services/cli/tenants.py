"""`darkroom tenants`: who may submit jobs, and their limits."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.commands import COMMANDS, command_group
from services.cli.session import AsJson, connect_database
from services.cli.terminal import print_json, print_table
from services.errors import CommandError

app = command_group(COMMANDS["tenants"].help)

SHORTEST_PASSWORD = 12
Name = Annotated[str, typer.Argument(help="The name of the tenant.")]
NewName = Annotated[str, typer.Argument(help="A name of a-z, 0-9, _ and -; outputs are stored under outputs/NAME.")]
PasswordFile = Annotated[Path, typer.Option(help="A file with the password of the tenant's login.")]


@app.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List tenants and their limits."""
    from services.job_queue import tenants

    engine = connect_database("migrator")
    with engine.connect() as connection:
        rows = [asdict(tenant) for tenant in tenants.list_tenants(connection)]
    if as_json:
        print_json(rows)
        return
    header = [field.name.replace("_", " ") for field in fields(tenants.Tenant)]
    print_table(header, [[_cell(value) for value in row.values()] for row in rows])


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value or "")


@app.command()
def add(name: NewName, password_file: PasswordFile, as_json: AsJson = False) -> None:
    """Add a tenant and its login.

    The login, tenant_NAME, may submit jobs and read its own jobs and images, and nothing else.
    """
    from services.database.logins import ensure_login
    from services.job_queue.tenants import ensure_tenant

    if not password_file.is_file():
        raise CommandError(f"--password-file: {password_file} does not exist")
    password = password_file.read_text().strip()
    if len(password) < SHORTEST_PASSWORD:
        raise CommandError(
            f"--password-file: the password is too short; permitted: {SHORTEST_PASSWORD} characters or more"
        )
    engine = connect_database("migrator")
    with engine.begin() as connection:
        login = f"tenant_{name}"
        ensure_login(connection, login, group="submitter", password=password)
        ensure_tenant(connection, name, login=login)
    if as_json:
        print_json({"name": name, "login": login})
    else:
        typer.echo(f"Tenant {name} submits as login {login}.")


@app.command("set")
def set_tenant(
    name: Name,
    weight: Annotated[
        float | None, typer.Option(min=0.001, max=1000, help="Its share of the workers, compared with other tenants'.")
    ] = None,
    max_open_jobs: Annotated[int | None, typer.Option(min=0, help="The limit of jobs that have not ended.")] = None,
    max_job_images: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="The limit of images in one job.")
    ] = None,
    retention_days: Annotated[
        int | None,
        typer.Option(min=0, max=36_500, help="Delete jobs and their images this long after their end; 0: never."),
    ] = None,
    permitted_release: Annotated[
        list[str] | None, typer.Option(help="The name of a release it may use, or *; may be repeated.")
    ] = None,
    read_prefix: Annotated[
        list[str] | None, typer.Option(help="A prefix of S3 under which its inputs are; may be repeated.")
    ] = None,
    write_prefix: Annotated[
        list[str] | None, typer.Option(help="A prefix of S3 under which its outputs are; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change limits of a tenant. What is not given stays unchanged."""
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
    from services.job_queue import tenants

    engine = connect_database("migrator")
    with engine.begin() as connection:
        if not tenants.update_tenant(connection, name, changes):
            known = ", ".join(tenants.tenant_names(connection))
            raise CommandError(f"tenant: {name!r} does not exist; permitted: {known}")
    if as_json:
        print_json({"name": name, **changes})
    else:
        typer.echo(f"Tenant {name} is changed.")
