"""`darkroom db`: the database's schema and its logins."""

import json
import os
import time
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from services.cli.session import AsJson, connect_database
from services.database.logins import ensure_login
from services.errors import CommandError
from services.job_queue.tenants import ensure_tenant
from services.local_stack.logins import Role
from services.settings import load_database

app = typer.Typer(help="The database schema and its logins.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)

LOGINS_VARIABLE = "DARKROOM_LOGINS_DIR"
AGAIN_S = 2.0


@app.command()
def upgrade() -> None:
    """Bring the database to the newest schema, as the role that owns it. A newer one that works is left alone."""
    from services.database import connections, schema

    settings = load_database("migrator")
    revision = schema.upgrade(connections.connect(settings.database_url.get_secret_value()))
    console.print(f"The database is at revision {revision}.")


@app.command()
def downgrade(revision: Annotated[str, typer.Argument(help="for example 0004")]) -> None:
    """Bring the schema back to an older revision. What newer ones added is lost."""
    from services.database import connections, schema

    settings = load_database("migrator")
    schema.downgrade(connections.connect(settings.database_url.get_secret_value()), revision)
    console.print(f"The database is at revision {revision}.")


@app.command()
def wait(timeout: Annotated[float, typer.Option(min=0, help="Seconds.")] = 600) -> None:
    """Wait until the database answers this login and has a schema that this version works with."""
    from services.database import connections, schema

    settings = load_database("observer")
    engine = connections.connect(settings.database_url.get_secret_value())
    deadline, told = time.monotonic() + timeout, ""
    while True:
        try:
            found = schema.check_schema(engine)
            break
        except connections.DatabaseError as error:
            if time.monotonic() > deadline:
                raise
            if str(error) != told:
                told = str(error)
                console.print(told)
            time.sleep(AGAIN_S)
    console.print(f"The database is there, at revision {found.revision or 'before 0005'}.")


@app.command()
def revision(as_json: AsJson = False) -> None:
    """The database's revision and this version's, and whether they work together. Exit code 0 if they do."""
    from services.database import connections, schema

    settings = load_database("observer")
    engine = connections.connect(settings.database_url.get_secret_value())
    with engine.connect() as connection:
        found = schema.read_schema(connection)
    problem = found.problem()
    if as_json:
        typer.echo(json.dumps({"database": found.revision, "code": found.code_revision, "problem": problem}))
    else:
        versions = f"database {found.revision or 'unknown'}, this version {found.code_revision}"
        console.print(f"{versions}: {problem or 'they work'}")
    if problem:
        raise typer.Exit(1)


@app.command()
def logins() -> None:
    """Make the logins that the files of DARKROOM_LOGINS_DIR name: one file a role, with its connection URL."""

    folder = Path(os.environ.get(LOGINS_VARIABLE, ""))
    if not os.environ.get(LOGINS_VARIABLE) or not folder.is_dir():
        raise CommandError(f"{LOGINS_VARIABLE}: {str(folder)!r} is not a folder; give one with a file for each role")
    roles = [role for role in get_args(Role) if role != "migrator" and (folder / role).is_file()]
    engine = connect_database("migrator")
    with engine.begin() as connection:
        for role in roles:
            try:
                url = make_url((folder / role).read_text().strip())
            except ArgumentError:
                url = None
            if url is None or not url.username or not url.password:
                raise CommandError(f"{folder / role}: is no URL; permitted: postgresql://login:password@host:port/name")
            ensure_login(connection, url.username, group=role, password=str(url.password))
            if role == "submitter":
                ensure_tenant(connection, "default", login=url.username)
    console.print(f"There are logins for: {', '.join(roles) or 'no role'}")


@app.command("add-tenant")
def add_tenant(
    name: Annotated[str, typer.Argument(help="a-z, 0-9, _ and -; its outputs lie under outputs/NAME.")],
    password_file: Annotated[Path, typer.Option(help="A file with the password of the tenant's new login.")],
) -> None:
    """Add a tenant and its login tenant_NAME, which may submit jobs and read its own, and nothing else."""

    if not password_file.is_file():
        raise CommandError(f"--password-file: {password_file} does not exist")
    password = password_file.read_text().strip()
    if len(password) < 12:
        raise CommandError("--password-file: the password is too short; permitted: 12 characters or more")
    engine = connect_database("migrator")
    with engine.begin() as connection:
        login = f"tenant_{name}"
        ensure_login(connection, login, group="submitter", password=password)
        ensure_tenant(connection, name, login=login)
    console.print(f"Tenant {name} submits as login {login}.")
