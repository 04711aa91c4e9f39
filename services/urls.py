"""URLs of servers, as people write them: check them, and never repeat a part that may be a password."""

import re
from ipaddress import IPv6Address
from urllib.parse import parse_qsl, urlsplit

DATABASE_FORM = "postgresql://login:password@host:port/database"
BROKER_FORM = "redis://:password@host:port/0"
ENDPOINT_FORM = "http://host:port or https://host"
DATABASE_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
BROKER_SCHEMES = ("redis", "rediss")
ENDPOINT_SCHEMES = ("http", "https")

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
MALFORMED_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
SEVERAL = "several servers are postgresql://login:password@one:port,two:port/database"
ESCAPE = (
    "percent-encode special characters in the login and the password, such as @ as %40, / as %2F, ? as %3F, # as %23 "
    "and % as %25"
)


def parse_database_url(value: str) -> str:
    """Return the SQLAlchemy URL of a libpq connection string: a URL or `key=value` pairs.

    It has libpq's meaning: several hosts, Unix sockets and connection parameters are kept. Raises ValueError with a
    message that contains no part of the value.
    """
    match = SCHEME.match(value)
    if match:
        scheme = match[1].lower()
        if scheme not in DATABASE_SCHEMES:
            raise ValueError(f"unknown scheme; permitted: {DATABASE_FORM}")
        rest = value[match.end() :]
        _check_escapes(rest, delimiters="/?")
        _check_parameters(rest)
        value = f"postgresql://{rest}"
    elif "=" not in value:
        raise ValueError(f"not a URL; permitted: {DATABASE_FORM}")
    return _canonical(_parse_conninfo(value, is_url=match is not None))


def check_broker_url(value: str) -> str:
    """Return the URL of a Redis or Valkey server. Raises ValueError with a message that contains no part of it."""
    body = _body(value, BROKER_SCHEMES, BROKER_FORM)
    _check_escapes(body, delimiters="/?#")
    _check_address(value, BROKER_FORM)
    if not re.fullmatch(r"(/\d*)?", urlsplit(value).path) or "#" in body:
        raise ValueError(f"the database is not a number; permitted: {BROKER_FORM}")
    return value


def check_endpoint_url(value: str) -> str:
    """Return the endpoint of an S3 store. Raises ValueError with a message that contains no part of it."""
    body = _body(value, ENDPOINT_SCHEMES, ENDPOINT_FORM)
    if "@" in body:
        raise ValueError(
            "an endpoint has no login; give it as DARKROOM_S3_ACCESS_KEY_ID and DARKROOM_S3_SECRET_ACCESS_KEY"
        )
    _check_address(value, ENDPOINT_FORM)
    if "?" in body or "#" in body:
        raise ValueError(f"an endpoint has no parameters; permitted: {ENDPOINT_FORM}")
    return value


def _body(value: str, schemes: tuple[str, ...], form: str) -> str:
    match = SCHEME.match(value)
    if not match:
        raise ValueError(f"not a URL; permitted: {form}")
    if match[1] not in schemes:
        raise ValueError(f"unknown scheme; permitted: {form}, with the scheme {' or '.join(schemes)}")
    return value[match.end() :]


def _check_escapes(body: str, *, delimiters: str) -> None:
    """Raise ValueError if the login or the password seems to contain a delimiter that is not percent-encoded."""
    authority = re.split(f"[{delimiters}]", body, maxsplit=1)[0]
    if authority.count("@") > 1 or "@" in body[len(authority) :] or MALFORMED_ESCAPE.search(body):
        raise ValueError(ESCAPE)
    if re.search(r"\s", body) or not authority.isprintable():
        raise ValueError("it contains a space or a control character; percent-encode it, such as a space as %20")


def _check_address(value: str, form: str) -> None:
    """Raise ValueError unless a URL has a host and a usable port."""
    try:
        parts = urlsplit(value)
        host = parts.hostname
    except ValueError:  # its message repeats the host
        raise ValueError(f"the host is malformed; permitted: {form}") from None
    if not host:
        raise ValueError(f"the host is missing; permitted: {form}")
    if not HOST.fullmatch(host):
        raise ValueError(f"the host is malformed; permitted: {form}; {ESCAPE}")
    address = parts.netloc.rpartition("@")[2].rpartition("]")[2]
    _, colon, port = address.partition(":")
    if colon:
        _check_port(port, form)


def _check_port(port: str, form: str) -> None:
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"the port is not a number from 1 to 65535; permitted: {form}; {ESCAPE}")


def _check_parameters(body: str) -> None:
    from psycopg import pq

    permitted = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {"ssl", "requiressl"}
    authority, _, query = body.partition("?")
    names = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
    for name in names:
        if name in permitted and names.count(name) > 1:
            raise ValueError(f"the connection parameter {name!r} is given twice; permitted: once; {SEVERAL}")
        if name not in permitted:
            # Without a login before the host, the parameters may be the end of a password.
            shown = f"{name!r}" if "@" in authority and name.isidentifier() else "it"
            raise ValueError(f"unknown connection parameter: {shown}; permitted: those of libpq, such as sslmode")


def _parse_conninfo(value: str, *, is_url: bool) -> dict[str, str]:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        found = {name: str(part) for name, part in conninfo_to_dict(value).items() if part not in (None, "")}
    except ProgrammingError:  # its message repeats the value
        advice = ESCAPE if is_url else "quote values that contain spaces, as in password='...'"
        raise ValueError(f"malformed; permitted: {DATABASE_FORM}, or key=value pairs; {advice}") from None
    if "service" not in found and "dbname" not in found:
        raise ValueError(f"the database is missing; permitted: {DATABASE_FORM}")
    for host in found.get("host", "").split(","):
        if not _is_host(host):
            raise ValueError(f"the host is malformed; permitted: {DATABASE_FORM}; {SEVERAL}")
    for port in found.get("port", "").split(","):
        if port:
            _check_port(port, DATABASE_FORM)
    return found


def _is_host(host: str) -> bool:
    """Return whether libpq can take this as a name, an address or the folder of a socket. Empty: the default."""
    if host.startswith(("/", "@")) or ":" not in host:
        return True
    try:
        IPv6Address(host)
    except ValueError:  # a name and a port, which would be looked up as one name
        return False
    return True


def _canonical(parts: dict[str, str]) -> str:
    from sqlalchemy import URL

    address: dict[str, object] = {}
    host, port = parts.get("host", ""), parts.get("port", "")
    if host and "," not in host + port and not host.startswith(("/", "@")):
        address = {"host": parts.pop("host"), "port": int(parts.pop("port")) if port else None}
    url = URL.create(
        "postgresql+psycopg",
        username=parts.pop("user", None),
        password=parts.pop("password", None),
        database=parts.pop("dbname", None),
        query=parts,
        **address,  # type: ignore[arg-type]  # names of URL.create
    )
    return url.render_as_string(hide_password=False)
