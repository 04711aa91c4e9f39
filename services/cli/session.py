"""Connections of a command: settings and a database whose schema is checked."""

from typing import Annotated

import typer
from sqlalchemy import Engine

from services.local_stack.logins import Role
from services.settings import DatabaseSettings, Settings, load, load_database

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]


def connect(role: Role) -> tuple[Settings, Engine]:
    """The settings of a role, and the database, which has answered and has its tables. Raises DatabaseError."""
    settings = load(role)
    return settings, _opened(settings)


def connect_database(role: Role) -> Engine:
    """The same for a command that needs no S3."""
    return _opened(load_database(role))


def _opened(settings: DatabaseSettings) -> Engine:
    from services.database import connections, schema

    engine = connections.connect(settings.database_url.get_secret_value())
    schema.check_schema(engine)
    return engine
