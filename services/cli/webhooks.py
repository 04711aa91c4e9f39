"""`darkroom webhooks`: addresses that receive an event when a job ends, and the delivery of events."""

import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.cli.commands import COMMANDS, command_group
from services.cli.session import AsJson, connect_database
from services.cli.terminal import print_json, print_table
from services.cli.text_files import read_secret
from services.errors import CommandError, quote

app = command_group(COMMANDS["webhooks"].help)

SHORTEST_SECRET = 24  # characters
STATES = ("waiting", "delivered", "dead")
Tenant = Annotated[str, typer.Argument(help="The name of the tenant.")]
Url = Annotated[str, typer.Argument(help="The address, https://host/path.")]


@app.command("list")
def list_webhooks(as_json: AsJson = False) -> None:
    """List webhooks."""
    from services.job_queue import webhooks

    with connect_database("migrator").connect() as connection:
        rows = webhooks.list_webhooks(connection)
    if as_json:
        print_json([{**asdict(row), "created_at": str(row.created_at)} for row in rows])
    elif rows:
        cells = [(row.tenant, row.url, "may be private" if row.may_be_private else "") for row in rows]
        print_table(("tenant", "address", ""), cells)
    else:
        typer.echo("There are no webhooks. Add one with: darkroom webhooks add; see its --help")


@app.command()
def add(
    tenant: Tenant,
    url: Url,
    secret_file: Annotated[Path, typer.Option(help="A file with the secret that signs the events.")],
    private: Annotated[bool, typer.Option("--private", help="Permit an address in a private network.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add a webhook: the URL receives an event for each job of the tenant that ends."""
    from services.dispatcher.delivery import DeliveryError, check_url
    from services.job_queue import tenants, webhooks

    try:
        check_url(url)
    except DeliveryError as error:
        raise CommandError(str(error)) from None
    secret = read_secret("--secret-file", secret_file, shortest=SHORTEST_SECRET)
    with connect_database("migrator").begin() as connection:
        if tenant not in (names := tenants.tenant_names(connection)):
            raise CommandError(f"tenant: {quote(tenant)} does not exist; permitted: {', '.join(names)}")
        webhooks.add_webhook(connection, tenant, url, secret, may_be_private=private)
    if as_json:
        print_json({"tenant": tenant, "url": url})
    else:
        typer.echo(f"{url} receives an event for each job of tenant {tenant} that ends.")


@app.command()
def remove(tenant: Tenant, url: Url, as_json: AsJson = False) -> None:
    """Remove an address. Its events that have not arrived are not sent any more."""
    from services.job_queue import webhooks

    with connect_database("migrator").begin() as connection:
        if not webhooks.remove_webhook(connection, tenant, url):
            raise CommandError(f"url: tenant {quote(tenant)} has no webhook {quote(url)}; see darkroom webhooks list")
    if as_json:
        print_json({"tenant": tenant, "url": url})
    else:
        typer.echo(f"{url} is removed.")


@app.command()
def events(
    tenant: Annotated[str | None, typer.Argument(help="The name of a tenant; default: every tenant.")] = None,
    state: Annotated[str | None, typer.Option(help=f"Only events that are {', '.join(STATES)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many events to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List events, newest first, with delivery errors."""
    from services.job_queue import webhooks

    if state is not None and state not in STATES:
        raise CommandError(f"--state: {quote(state)} is not allowed; permitted: {', '.join(STATES)}")
    with connect_database("migrator").connect() as connection:
        rows = webhooks.list_events(connection, tenant, state, limit)
    if as_json:
        print_json([{name: str(value) if value is not None else None for name, value in asdict(row).items()}
                    for row in rows])  # fmt: skip
        return
    header = ("event", "job", "address", "state", "attempts", "error")
    cells = [(str(row.id), str(row.job_id), row.url, row.state, str(row.attempts), row.error or "") for row in rows]
    print_table(header, cells)


@app.command()
def redeliver(
    event_ids: Annotated[list[str] | None, typer.Argument(help="The ids of events.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All dead events.")] = False,
    tenant: Annotated[str | None, typer.Option(help="Only events of this tenant.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send events again, including delivered ones."""
    from services.job_queue import webhooks

    if dead == bool(event_ids):
        raise CommandError("give the ids of events, or --dead")
    try:
        ids = None if dead else [uuid.UUID(event) for event in event_ids or ()]
    except ValueError:
        raise CommandError("event: not an id; list events with: darkroom webhooks events") from None
    with connect_database("migrator").begin() as connection:
        count = webhooks.redeliver(connection, ids, tenant)
    if as_json:
        print_json({"events": count})
    else:
        typer.echo(f"Events that are sent again: {count}.")
