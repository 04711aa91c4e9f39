"""Tokens of the HTTP API: their tenant, scopes and expiry. Only their hashes are stored."""

import hashlib
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

PREFIX = "darkroom_"  # by which scanners of secrets recognise a token
SCOPES = ("read", "submit")


@dataclass(frozen=True)
class Token:
    """A token without its text. `submit` permits to submit, cancel and retry; `read` all the rest."""

    id: uuid.UUID
    tenant: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


COLUMNS = ", ".join(field.name for field in fields(Token))


@dataclass(frozen=True)
class TokenUser:
    """Whose token a request carries, and what it permits."""

    id: uuid.UUID
    tenant: str
    name: str
    scopes: list[str]


def create_token(
    connection: Connection, tenant: str, name: str, scopes: Sequence[str], lifetime: timedelta
) -> tuple[Token, str]:
    """Create a token of a tenant. Returns it with its text, which cannot be read again."""
    secret = PREFIX + secrets.token_urlsafe(32)
    row = connection.execute(
        text(f"""
            INSERT INTO api_tokens (tenant, name, digest, scopes, expires_at)
            VALUES (:tenant, :name, :digest, :scopes, now() + :lifetime) RETURNING {COLUMNS}
        """),
        {"tenant": tenant, "name": name, "digest": _digest(secret), "scopes": list(scopes), "lifetime": lifetime},
    ).one()
    return Token(**row._mapping), secret


def list_tokens(connection: Connection, tenant: str) -> list[Token]:
    """Return the tokens of a tenant, newest first."""
    rows = connection.execute(
        text(f"SELECT {COLUMNS} FROM api_tokens WHERE tenant = :tenant ORDER BY created_at DESC, id"),
        {"tenant": tenant},
    )
    return [Token(**row._mapping) for row in rows]


def revoke_token(connection: Connection, tenant: str, token_id: uuid.UUID) -> bool:
    """End a token of a tenant at once. Returns False if the tenant has none of this id that is not revoked."""
    result = connection.execute(
        text("UPDATE api_tokens SET revoked_at = now() WHERE tenant = :tenant AND id = :id AND revoked_at IS NULL"),
        {"tenant": tenant, "id": token_id},
    )
    return result.rowcount > 0


def use_token(connection: Connection, secret: str) -> TokenUser | None:
    """Return whose token a text is, or None if it is unknown, has expired or was revoked. For the console's login."""
    row = connection.execute(
        text("SELECT id, tenant, name, scopes FROM use_api_token(:digest)"), {"digest": _digest(secret)}
    ).first()
    return None if row is None else TokenUser(**row._mapping)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
