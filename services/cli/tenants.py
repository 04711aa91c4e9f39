"""`darkroom tenants`: tenants, their logins and their limits."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import tenant_tokens
from services.cli.commands import COMMANDS, command_group
from services.cli.session import AsJson, connect_database
from services.cli.tenant_usage import usage
from services.cli.terminal import print_json, print_table
from services.cli.text_files import read_secret
from services.errors import CommandError, quote

if TYPE_CHECKING:
    from sqlalchemy import Connection

app = command_group(COMMANDS["tenants"].help)
app.command("usage")(usage)
app.add_typer(tenant_tokens.app, name="tokens")

SHORTEST_PASSWORD = 12
LARGEST_INTEGER = 2**31 - 1
Name = Annotated[str, typer.Argument(help="The name of the tenant.")]
NewName = Annotated[str, typer.Argument(help="A name of a-z, 0-9, _ and -; outputs are stored under outputs/NAME.")]
PasswordFile = Annotated[Path, typer.Option(help="A file with the password of the tenant's login.")]

Weight = Annotated[
    float | None, typer.Option(min=0.001, max=1000, help="Its share of the workers, relative to other tenants.")
]
HeadStart = Annotated[
    int | None,
    typer.Option(min=0, max=1_000_000, help="Network evaluations by which it may overtake other tenants."),
]
MaxOpenJobs = Annotated[
    int | None, typer.Option(min=0, max=LARGEST_INTEGER, help="The limit of jobs that have not ended.")
]
MaxOpenBytes = Annotated[
    int | None, typer.Option(min=0, max=2**63 - 1, help="The limit of bytes of requests in jobs that have not ended.")
]
MaxDailyBytes = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**63 - 1,
        help="The limit of bytes that its new jobs and their images take in Postgres in a day (UTC).",
    ),
]
MaxJobImages = Annotated[int | None, typer.Option(min=1, max=10_000_000, help="The limit of images in one job.")]
MaxConnections = Annotated[
    int | None, typer.Option(min=0, max=100_000, help="The limit of concurrent connections of its login.")
]
RetentionDays = Annotated[
    int | None,
    typer.Option(min=0, max=36_500, help="Delete jobs and their images this long after their end; 0: never."),
]
PermittedQueues = Annotated[
    list[str] | None, typer.Option("--queue", help="A queue that it may use, or *; may be repeated.")
]
PermittedReleases = Annotated[
    list[str] | None,
    typer.Option("--permitted-release", help="The name of a release it may use, or *; may be repeated."),
]
ReadPrefixes = Annotated[
    list[str] | None,
    typer.Option("--read-prefix", help="A prefix of S3 under which its inputs are; may be repeated."),
]
WritePrefixes = Annotated[
    list[str] | None,
    typer.Option("--write-prefix", help="A prefix of S3 under which its outputs are; may be repeated."),
]


@app.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List tenants and their limits."""
    from services.database.logins import connection_limits
    from services.job_queue import tenants

    engine = connect_database("migrator")
    with engine.connect() as connection:
        limits = connection_limits(connection)
        rows = [
            {**asdict(tenant), "max_connections": limits.get(tenant.login or "")}
            for tenant in tenants.list_tenants(connection)
        ]
    if as_json:
        print_json(rows)
        return
    header = [field.name for field in fields(tenants.Tenant)] + ["max_connections"]
    print_table([name.replace("_", " ") for name in header], [[_cell(row[name]) for name in header] for row in rows])


def _cell(value: Any) -> str:
    if value is None or value == -1:
        return ""
    return ", ".join(value) if isinstance(value, list) else str(value)


@app.command()
def add(
    name: NewName,
    password_file: PasswordFile,
    weight: Weight = None,
    head_start: HeadStart = None,
    max_open_jobs: MaxOpenJobs = None,
    max_open_bytes: MaxOpenBytes = None,
    max_daily_bytes: MaxDailyBytes = None,
    max_job_images: MaxJobImages = None,
    max_connections: MaxConnections = None,
    retention_days: RetentionDays = None,
    permitted_queues: PermittedQueues = None,
    permitted_releases: PermittedReleases = None,
    read_prefixes: ReadPrefixes = None,
    write_prefixes: WritePrefixes = None,
    as_json: AsJson = False,
) -> None:
    """Add a tenant and its login.

    The login, tenant_NAME, may submit jobs and read its own jobs and images, and nothing else.
    """
    changes = _changes(locals())
    from services.database.logins import ensure_login
    from services.job_queue.tenants import ensure_tenant

    password = read_secret("--password-file", password_file, shortest=SHORTEST_PASSWORD)
    engine = connect_database("migrator")
    with engine.begin() as connection:
        login = f"tenant_{name}"
        print_unset(login, ensure_login(connection, login, group="submitter", password=password))
        ensure_tenant(connection, name, login=login)
        _apply(connection, name, changes)
    if as_json:
        print_json({"name": name, "login": login})
    else:
        typer.echo(f"Tenant {name} submits as login {login}.")


@app.command("set")
def set_tenant(
    name: Name,
    weight: Weight = None,
    head_start: HeadStart = None,
    max_open_jobs: MaxOpenJobs = None,
    max_open_bytes: MaxOpenBytes = None,
    max_daily_bytes: MaxDailyBytes = None,
    max_job_images: MaxJobImages = None,
    max_connections: MaxConnections = None,
    retention_days: RetentionDays = None,
    permitted_queues: PermittedQueues = None,
    permitted_releases: PermittedReleases = None,
    read_prefixes: ReadPrefixes = None,
    write_prefixes: WritePrefixes = None,
    as_json: AsJson = False,
) -> None:
    """Change limits of a tenant. What is not given stays unchanged."""
    changes = _changes(locals())
    if not changes:
        raise CommandError("nothing to change: give at least one option, see darkroom tenants set --help")
    engine = connect_database("migrator")
    with engine.begin() as connection:
        _apply(connection, name, changes)
    if as_json:
        print_json({"name": name, **changes})
    else:
        typer.echo(f"Tenant {name} is changed.")


def print_unset(login: str, limits: list[str]) -> None:
    """Say on standard error which limits of a login only a superuser may set."""
    if limits:
        typer.echo(
            f"Login {login}: these limits cannot be set by this login, only by a superuser: {', '.join(limits)}",
            err=True,
        )


def _changes(options: dict[str, Any]) -> dict[str, Any]:
    """Return the limits among a command's options that were given."""
    others = ("name", "password_file", "as_json")
    changes = {option: value for option, value in options.items() if option not in others and value not in (None, [])}
    if changes.get("retention_days") == 0:
        changes["retention_days"] = None
    return changes


def _apply(connection: "Connection", name: str, changes: dict[str, Any]) -> None:
    """Change limits of a tenant. Raises CommandError for a tenant or a queue that does not exist."""
    from services.database.logins import limit_connections
    from services.job_queue import queues, tenants

    known = queues.queue_names(connection)
    for queue in changes.get("permitted_queues", ()):
        if queue not in (*known, "*"):
            raise CommandError(f"--queue: {quote(queue)} does not exist; permitted: {', '.join(known)}, *")
    tenant = next((tenant for tenant in tenants.list_tenants(connection) if tenant.name == name), None)
    if tenant is None:
        raise CommandError(f"tenant: {name!r} does not exist; permitted: {', '.join(tenants.tenant_names(connection))}")
    columns = {column: value for column, value in changes.items() if column != "max_connections"}
    if columns:
        tenants.update_tenant(connection, name, columns)
    if "max_connections" in changes:
        if tenant.login is None:
            raise CommandError(f"--max-connections: tenant {name!r} has no login")
        limit_connections(connection, tenant.login, changes["max_connections"])
