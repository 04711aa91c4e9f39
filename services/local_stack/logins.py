"""The logins of the local stack, one for each role, and the settings with which a process reaches it."""

import hashlib
import hmac
from pathlib import Path
from typing import Literal

from services.local_stack.state import HOST, StackState

Role = Literal["submitter", "dispatcher", "worker", "publisher", "pruner", "observer", "console", "migrator"]


def local_login(role: Role) -> str:
    """Return the name of a role's login."""
    return "postgres" if role == "migrator" else f"local_{role}"


def local_password(state: StackState, role: Role) -> str:
    """Return the password of a role's login. It is derived from the superuser's, so that one secret file is enough."""
    if role == "migrator":
        return state.postgres_password
    return hmac.new(state.postgres_password.encode(), local_login(role).encode(), hashlib.sha256).hexdigest()


def local_values(state: StackState, role: Role, folder: Path) -> dict[str, str]:
    """Return the settings with which a process of `role` reaches the local stack in `folder`."""
    login, password = local_login(role), local_password(state, role)
    return {
        "database_url": f"postgresql+psycopg://{login}:{password}@{HOST}:{state.postgres_port}/darkroom",
        "broker_url": state.broker_url,
        "s3_bucket": state.s3_bucket,
        "s3_endpoint_url": state.s3_endpoint_url,
        "s3_access_key_id": state.s3_access_key_id,
        "s3_secret_access_key": state.s3_secret_access_key,
        "cache_dir": str(folder / "cache"),
    }
