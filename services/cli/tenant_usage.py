"""`darkroom tenants usage`: usage of tenants by day."""

from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import typer

from services.cli.session import AsJson, connect_database
from services.cli.terminal import print_json, print_table
from services.errors import CommandError

DAYS = 30  # that are shown by default


def usage(
    name: Annotated[str | None, typer.Argument(help="The name of a tenant; default: every tenant.")] = None,
    since: Annotated[str | None, typer.Option(help=f"The first day in UTC; default: {DAYS} days ago.")] = None,
    until: Annotated[str | None, typer.Option(help="The last day in UTC; default: today.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the daily usage of tenants: images, network evaluations, GPU-seconds and bytes."""
    today = datetime.now(UTC).date()
    first, last = _parse_day("--since", since) or today - timedelta(days=DAYS), _parse_day("--until", until) or today
    from services.job_queue.tenants import tenant_names
    from services.job_queue.usage import read_usage

    engine = connect_database("migrator")
    with engine.connect() as connection:
        if name is not None and name not in (names := tenant_names(connection)):
            raise CommandError(f"tenant: {name!r} does not exist; permitted: {', '.join(names)}")
        rows = read_usage(connection, tenant=name, since=first, until=last)
    if as_json:
        print_json([{**asdict(row), "day": row.day.isoformat()} for row in rows])
    elif not rows:
        typer.echo(f"Nothing was used from {first} to {last}.")
    else:
        print_table(
            ("day", "tenant", "images", "evaluations", "GPU-seconds", "bytes"),
            (
                (
                    str(row.day),
                    row.tenant,
                    str(row.images),
                    str(row.evaluations),
                    f"{row.gpu_seconds:.1f}",
                    str(row.bytes),
                )
                for row in rows
            ),
        )


def _parse_day(option: str, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option}: {text!r} is not a day; permitted: such as 2030-01-31") from None
