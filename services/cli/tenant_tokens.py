"""`darkroom tenants tokens`: the tokens with which a tenant's programs use the HTTP API."""

import uuid
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer

from services.cli.commands import command_group
from services.cli.session import AsJson, connect_database
from services.cli.terminal import print_json, print_table
from services.errors import CommandError, quote

SUMMARY = "Add, list and revoke tokens of the HTTP API."
app = command_group(SUMMARY)

SCOPES = ("read", "submit")
LONGEST_DAYS = 366
Tenant = Annotated[str, typer.Argument(help="The name of the tenant.")]


@app.command()
def add(
    tenant: Tenant,
    name: Annotated[str, typer.Argument(help="What the token is for, such as nightly-batch.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="read, or submit (also cancel and retry); may be repeated. Default: both.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=LONGEST_DAYS, help="After how many days it expires.")] = 90,
    as_json: AsJson = False,
) -> None:
    """Add a token of a tenant, and print it.

    It is printed once: the database keeps only its hash.
    """
    from services.job_queue import tenants, tokens

    scopes = list(dict.fromkeys(scope or SCOPES))
    if unknown := [one for one in scopes if one not in SCOPES]:
        raise CommandError(f"--scope: {quote(unknown[0])} is not allowed; permitted: {', '.join(SCOPES)}")
    if not 1 <= len(name.encode()) <= 200:
        raise CommandError(f"name: {quote(name)} is not allowed; permitted: 1 to 200 bytes")
    with connect_database("migrator").begin() as connection:
        if tenant not in (known := tenants.tenant_names(connection)):
            raise CommandError(f"tenant: {quote(tenant)} does not exist; permitted: {', '.join(known)}")
        token, secret = tokens.create_token(connection, tenant, name, scopes, timedelta(days=days))
    if as_json:
        print_json({**_as_json(token), "token": secret})
        return
    typer.echo(secret)
    typer.echo(f"Token {token.id} of tenant {tenant} expires on {token.expires_at:%Y-%m-%d}. It is not shown again.",
               err=True)  # fmt: skip


@app.command("list")
def list_tokens(tenant: Tenant, as_json: AsJson = False) -> None:
    """List the tokens of a tenant, newest first."""
    from services.job_queue import tokens

    with connect_database("migrator").connect() as connection:
        found = tokens.list_tokens(connection, tenant)
    if as_json:
        print_json([_as_json(token) for token in found])
        return
    header = ("id", "name", "scopes", "expires", "last used", "state")
    print_table(header, [
        (str(t.id), t.name, ", ".join(t.scopes), f"{t.expires_at:%Y-%m-%d}",
         f"{t.last_used_at:%Y-%m-%d}" if t.last_used_at else "never", "revoked" if t.revoked_at else "")
        for t in found
    ])  # fmt: skip


@app.command()
def revoke(
    tenant: Tenant, token: Annotated[str, typer.Argument(help="The id of the token.")], as_json: AsJson = False
) -> None:
    """Revoke a token of a tenant at once."""
    from services.job_queue import tokens

    try:
        token_id = uuid.UUID(token)
    except ValueError:
        raise CommandError(f"token: {quote(token)} is not an id; `darkroom tenants tokens list` shows them") from None
    with connect_database("migrator").begin() as connection:
        if not tokens.revoke_token(connection, tenant, token_id):
            raise CommandError(f"token: tenant {quote(tenant)} has no valid token {token_id}")
    if as_json:
        print_json({"revoked": str(token_id)})
    else:
        typer.echo(f"Token {token_id} is revoked.")


def _as_json(token: Any) -> dict[str, Any]:
    return {
        name: value if isinstance(value, list) or value is None else str(value) for name, value in asdict(token).items()
    }
