"""Connections of commands: the settings of a role, and a database whose schema this version supports."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from services.local_stack.logins import Role

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from services.settings import DatabaseSettings, Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
ReleaseArgument = Annotated[
    str, typer.Argument(help="A release folder, or a published name, name@alias or name@version.")
]


def finite(value: float) -> float:
    """Return the value of an option. Raises BadParameter for infinity, which no minimum refuses."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not allowed; permitted: a finite number")
    return value


def connect(role: Role) -> "tuple[Settings, Engine]":
    """Return the settings of a role, and an engine. Raises DatabaseError unless the schema can be used."""
    from services.settings import load

    settings = load(role)
    return settings, _check(create_engine(settings))


def connect_database(role: Role) -> "Engine":
    """Return an engine, for a command that needs no S3. Raises DatabaseError unless the schema can be used."""
    return _check(open_database(role))


def open_database(role: Role) -> "Engine":
    """Return an engine without looking at the schema, for the commands that manage it."""
    from services.settings import load_database

    return create_engine(load_database(role))


def create_engine(settings: "DatabaseSettings") -> "Engine":
    """Return an engine for the database of the settings. It does not connect yet."""
    from services.database import connections

    return connections.connect(settings.database_url.get_secret_value())


def _check(engine: "Engine") -> "Engine":
    from services.database import schema

    schema.check_schema(engine)
    return engine
