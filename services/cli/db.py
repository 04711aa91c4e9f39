"""`darkroom db`: the database schema and its logins."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from services.cli.commands import COMMANDS, command_group
from services.cli.session import AsJson, connect_database, open_database
from services.cli.tenants import NewName, PasswordFile, print_unset
from services.cli.tenants import add as tenants_add
from services.cli.terminal import print_json, print_renamed
from services.cli.text_files import read_text
from services.errors import CommandError
from services.local_stack.logins import Role

if TYPE_CHECKING:
    from sqlalchemy import URL

app = command_group(COMMANDS["db"].help)

LOGINS_VARIABLE = "DARKROOM_LOGINS_DIR"
RETRY_INTERVAL_S = 2.0


@app.command()
def upgrade(as_json: AsJson = False) -> None:
    """Upgrade the schema to this version's, as the role that owns it.

    A newer schema that works with this version is left unchanged.
    """
    from services.database import schema

    _print_revision(schema.upgrade(open_database("migrator")), as_json)


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="A revision, such as 0004.")], as_json: AsJson = False
) -> None:
    """Downgrade the schema to an older revision. What newer revisions added is lost."""
    from services.database import schema

    schema.downgrade(open_database("migrator"), revision)
    _print_revision(revision, as_json)


def _print_revision(revision: str, as_json: bool) -> None:
    if as_json:
        print_json({"revision": revision})
    else:
        typer.echo(f"The database is at revision {revision}.")


@app.command()
def wait(
    timeout: Annotated[float, typer.Option(min=0, help="Give up after this many seconds.")] = 600,
    as_json: AsJson = False,
) -> None:
    """Wait until the database answers and has a schema that works with this version."""
    from services.database import connections, schema

    engine = open_database("observer")
    deadline, message = time.monotonic() + timeout, ""
    while True:
        try:
            found = schema.check_schema(engine)
            break
        except connections.DatabaseError as error:
            if time.monotonic() > deadline:
                raise
            if str(error) != message:
                message = str(error)
                typer.echo(message, err=as_json)
            time.sleep(RETRY_INTERVAL_S)
    if as_json:
        print_json({"revision": found.revision})
    else:
        typer.echo(f"The database is ready, at revision {found.revision or 'before 0005'}.")


@app.command()
def revision(as_json: AsJson = False) -> None:
    """Show the revisions of the database and of this version. Exit code 1 if they do not work together."""
    from services.database import schema

    with open_database("observer").connect() as connection:
        found = schema.read_schema(connection)
    problem = found.problem()
    if as_json:
        print_json({"database": found.revision, "code": found.code_revision, "problem": problem})
    else:
        versions = f"database {found.revision or 'unknown'}, this version {found.code_revision}"
        typer.echo(f"{versions}: {problem or 'compatible'}")
    if problem:
        raise typer.Exit(1)


@app.command("set-logins")
def set_logins(as_json: AsJson = False) -> None:
    """Create logins or set their passwords, from the files in DARKROOM_LOGINS_DIR.

    Each file is called like a role and contains the connection URL of the role's login.
    """
    from services.database.logins import ensure_login
    from services.job_queue.tenants import ensure_tenant

    folder = Path(os.environ.get(LOGINS_VARIABLE, ""))
    if not os.environ.get(LOGINS_VARIABLE) or not folder.is_dir():
        raise CommandError(f"{LOGINS_VARIABLE}: {str(folder)!r} is not a folder; give one with a file for each role")
    roles = [role for role in get_args(Role) if role != "migrator" and (folder / role).is_file()]
    engine = connect_database("migrator")
    with engine.begin() as connection:
        for role in roles:
            url = _read_url(folder / role)
            login = str(url.username)
            print_unset(login, ensure_login(connection, login, group=role, password=str(url.password)))
            if role == "submitter":
                ensure_tenant(connection, "default", login=login)
    if as_json:
        print_json({"logins": roles})
    else:
        typer.echo(f"Logins: {', '.join(roles) or 'none'}")


def _read_url(path: Path) -> "URL":
    from sqlalchemy import make_url

    from services.urls import DATABASE_FORM, parse_database_url

    try:
        url = make_url(parse_database_url(read_text(LOGINS_VARIABLE, path).strip()))
    except ValueError as error:
        raise CommandError(f"{path}: not a database URL: {error}") from None
    if not url.username or not url.password:
        raise CommandError(f"{path}: the login or the password is missing; permitted: {DATABASE_FORM}")
    return url


@app.command("logins", hidden=True)
def logins(as_json: AsJson = False) -> None:
    """Old name of `darkroom db set-logins`."""
    print_renamed("db logins", "db set-logins")
    set_logins(as_json)


@app.command("add-tenant", hidden=True)
def add_tenant(name: NewName, password_file: PasswordFile, as_json: AsJson = False) -> None:
    """Old name of `darkroom tenants add`."""
    print_renamed("db add-tenant", "tenants add")
    tenants_add(name, password_file, as_json=as_json)
