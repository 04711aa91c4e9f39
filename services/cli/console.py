"""`darkroom console`: the pages of the service, in the foreground."""

import logging
import os
import signal
import socket
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import typer

from services.cli.session import create_engine
from services.errors import CommandError
from services.observability.listening import find_family

if TYPE_CHECKING:
    from services.console_settings import ConsoleSettings

SCHEMA = "0042"  # the oldest that the console works with
BACKLOG = 512


def console(
    host: Annotated[str | None, typer.Option(help="The address to serve on; default: loopback.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port to serve on; 0: a free one.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The tenant of users who sign in with the link.")] = None,
    operator: Annotated[bool, typer.Option(help="Whether these users are operators.")] = True,
) -> None:
    """Serve the web console and the HTTP API until SIGTERM.

    Prints a link that signs in the browser which opens it, once; then the next link.
    """
    from services.console_settings import load_console

    given = {"console_host": host, "console_port": port, "console_tenant": tenant}
    settings = load_console().model_copy(update={name: value for name, value in given.items() if value is not None})
    listener = _listen(settings)
    address, port = listener.getsockname()[:2]
    _serve(settings.model_copy(update={"console_port": port}), listener, f"http://{_in_url(address)}:{port}", operator)


def _serve(settings: "ConsoleSettings", listener: socket.socket, address: str, operator: bool) -> None:
    from services.console.app import make_app
    from services.console.server import Server
    from services.console.sign_in import SignInLinks
    from services.console.viewer import Viewer
    from services.database import schema
    from services.observability import http, logs, metrics
    from services.process.starting import wait_for_connection
    from services.storage.object_store import ObjectStore

    logs.configure(settings)
    for name in ("uvicorn.error", "authlib", "httpx2", "httpcore2"):  # the last ones would log codes of sign-ins
        logging.getLogger(name).setLevel(logging.WARNING)
    engine, store = create_engine(settings), ObjectStore.connect(settings)
    wait_for_connection(engine)
    schema.check_schema(engine, SCHEMA)
    store.check()
    viewer = Viewer(settings.console_tenant, settings.console_tenant, operator)
    links = SignInLinks(lambda viewer: typer.echo(f"Another sign-in link: {link(viewer)}"))

    def link(viewer: Viewer) -> str:
        return f"{address}/sign-in?{urlencode({'token': links.issue(viewer)})}"

    app = make_app(settings, engine, store, links)
    http.serve(settings, app.state.parts.health, metrics.COMMON)
    if settings.console_oidc_issuer:
        typer.echo(f"The console serves at {address}. Users sign in at {settings.console_oidc_issuer}.")
    elif settings.console_proxy_user_header:
        typer.echo(f"The console serves at {address}, and trusts {settings.console_proxy_user_header} of its proxy.")
    else:
        typer.echo(f"The console serves at {address}. Open this link to sign in; it works once:\n{link(viewer)}")
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn stops at them, and raises them again at its end
        signal.signal(number, lambda *_: None)
    Server(app, listener).serve_until_stopped()


def _listen(settings: "ConsoleSettings") -> socket.socket:
    """Return a socket that listens. Raises CommandError."""
    host, port = settings.console_host, settings.console_port
    try:
        address, family = find_family(host)
        return socket.create_server((address, port), family=family, backlog=BACKLOG, dualstack_ipv6=address == "::")
    except OSError as error:
        raise CommandError(
            f"DARKROOM_CONSOLE_HOST, DARKROOM_CONSOLE_PORT: {host}:{port} cannot be used "
            f"({os.strerror(error.errno or 0)}); permitted: an address of this machine and a free port, or --port 0"
        ) from None


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
