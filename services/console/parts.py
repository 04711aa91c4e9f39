"""The parts of the console that its handlers share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi.templating import Jinja2Templates
from sqlalchemy import Connection, Engine

from services.console.directory import Directory
from services.console.health import ConsoleHealth
from services.console.live import News
from services.console.pending import PendingSignIns
from services.console.proxy import Proxy
from services.console.rates import Rates
from services.console.sign_in import SignInLinks
from services.console.thumbnails import Thumbnails
from services.console.viewer import Viewer
from services.job_queue.viewing import set_viewer
from services.storage.object_store import ObjectStore

if TYPE_CHECKING:
    from services.console.oidc import Provider


@dataclass(frozen=True)
class Oidc:
    """Signing in at a provider, and what its claims mean. user, groups, tenant: the names of claims."""

    provider: "Provider"
    pending: PendingSignIns
    directory: Directory
    user: str
    groups: str
    tenant: str | None


@dataclass(frozen=True)
class Parts:
    """The database, the bucket and what is kept between requests."""

    database: Engine
    store: ObjectStore
    templates: Jinja2Templates
    links: SignInLinks
    proxy: Proxy | None = None
    oidc: Oidc | None = None  # without it and a proxy, links sign in
    runs: Path | None = None  # the folder of training runs
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    rates: Rates = field(default_factory=Rates)
    news: News = field(init=False)
    health: ConsoleHealth = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "news", News(self.database))
        object.__setattr__(self, "health", ConsoleHealth(self.database))

    @contextmanager
    def begin(self, viewer: Viewer) -> Iterator[Connection]:
        """Begin a transaction that sees what the viewer may see. Reading S3 is for after its end."""
        with self.database.begin() as connection:
            set_viewer(connection, viewer.tenant, is_operator=viewer.is_operator)
            yield connection
