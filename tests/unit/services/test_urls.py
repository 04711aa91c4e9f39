"""URLs in every form that libpq knows, and mistakes whose messages repeat no part of a password."""

from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from services.urls import check_broker_url, check_endpoint_url, parse_database_url

FORMS = [
    "postgresql://me:pass@db/darkroom",
    "postgres://me:pass@db:5433/darkroom?sslmode=require&options=-c%20search_path%3Dmine",
    "postgresql://me:pass@[::1]:5433/darkroom",
    "postgresql://me:pass@one:1,two:2/darkroom?target_session_attrs=read-write",
    "postgresql://me:pass@one,two:2/darkroom",
    "postgresql://me@%2Fvar%2Frun%2Fpostgresql/darkroom",
    "postgresql:///darkroom?host=/var/run/postgresql&user=me",
    "postgresql://me:pa%40ss%2F%23%25word@db/dark%20room",
    "postgresql://me:pa#ss@db/darkroom",
    "postgresql://db/darkroom?user=me&password=pass",
    "host=db port=5433 dbname=darkroom user=me password='a pass@word/#%'",
    "dbname=darkroom service=main",
    "host=::1,fe80::1%eth0 port=5433,5434 dbname=darkroom",
]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_libpq_keeps_its_meaning(form: str) -> None:
    url = make_url(parse_database_url(form))
    found = url.translate_connect_args(username="user", database="dbname") | dict(url.query)
    assert url.drivername == "postgresql+psycopg"
    assert {name: str(value) for name, value in found.items()} == conninfo_to_dict(form)


def test_the_url_of_sqlalchemy_is_kept() -> None:
    url = "postgresql+psycopg://me:pass@db:5433/darkroom"
    assert parse_database_url(url) == url


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1))
def test_any_password_can_be_given(password: str) -> None:
    url = make_url(parse_database_url(f"postgresql://me:{quote(password, safe='')}@db/darkroom"))
    assert (url.password, url.host) == (password, "db")


PLACES: dict[Callable[[str], str], str] = {
    parse_database_url: "postgresql://me:{}@db:5433/darkroom",
    check_broker_url: "redis://:{}@broker:6379/0",
    check_endpoint_url: "http://me:{}@store:9000",
}


@pytest.mark.parametrize("check", PLACES)
@pytest.mark.parametrize("special", ["@", "/", "?", "#", "%", " ", "?a=", "/1?", "@x:", ":@/", "[", "é", "%zz"])
def test_no_message_repeats_a_part_of_a_password_that_is_not_encoded(check: Callable[[str], str], special: str) -> None:
    message = ""
    try:
        assert make_url(check(PLACES[check].format(f"first{special}second"))).password == f"first{special}second"
    except ValueError as error:
        message = str(error)
    assert not [part for part in ("first", "second", "\n") if part in message]


@pytest.mark.parametrize("special", "@/?#%")
def test_the_message_about_a_password_says_percent_encode(special: str) -> None:
    with pytest.raises(ValueError, match="percent-encode"):
        check_broker_url(f"redis://:first{special}second@broker/0")
    if special != "#":  # libpq reads it as it is
        with pytest.raises(ValueError, match="percent-encode"):
            parse_database_url(f"postgresql://me:first{special}second@db/darkroom")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("darkroom", "not a URL; permitted: postgresql://login:password@host:port/database"),
        ("mysql://me:hidden@db/darkroom", "unknown scheme"),
        ("postgresql+asyncpg://me:hidden@db/darkroom", "unknown scheme"),
        ("postgresql://me:hidden@db", "the database is missing"),
        ("postgresql://me:hidden@db:5433/", "the database is missing"),
        ("user=me password=hidden", "the database is missing"),
        ("postgresql://me:hidden@db:port/darkroom", "the port is not a number from 1 to 65535"),
        ("postgresql://me:hidden@db:0/darkroom", "the port is not a number"),
        ("postgresql://me:hidden@one:5433,two:70000/darkroom", "the port is not a number"),
        ("postgresql://me:hidden/darkroom", "the port is not a number"),
        ("host=db dbname=darkroom password=hidden away", "malformed"),
        ("postgresql://me:hidden@db/darkroom?sslmod=require", "unknown connection parameter: 'sslmod'"),
        ("postgresql://me:hid?den=1&x=y/darkroom", "unknown connection parameter: it"),
        ("postgresql://me:hidden@[::1/darkroom", "malformed"),
        ("postgresql://me:hidden@/darkroom?host=a&host=b", "parameter 'host' is given twice; .*one:port,two:port"),
        ("postgresql://me:hidden@/darkroom?host=a:5433", "the host is malformed; .*one:port,two:port"),
        ("host=a,127.0.0.1:5433 dbname=darkroom", "the host is malformed"),
    ],
)
def test_each_mistake_in_a_database_url_is_named(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_database_url(url)
    assert "hid" not in str(error.value)


@pytest.mark.parametrize("url", ["redis://broker", "redis://:pass@broker:6379/0", "rediss://u:p%40@[::1]:6379/15?a=b"])
def test_a_broker_url_is_kept(url: str) -> None:
    assert check_broker_url(url) == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("broker:6379", "not a URL; permitted: redis://:password@host:port/0"),
        ("amqp://me:hidden@broker//", "unknown scheme"),
        ("redis://:hidden@/0", "the host is missing"),
        ("redis://:hidden@broker:six/0", "the port is not a number"),
        ("redis://:hidden", "the host is missing"),
        ("redis://:hidden@broker/zero", "the database is not a number"),
        ("redis://:hidden@[::1/0", "the host is malformed"),
    ],
)
def test_each_mistake_in_a_broker_url_is_named(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check_broker_url(url)
    assert "hid" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("store:9000", "not a URL; permitted: http://host:port or https://host"),
        ("s3://bucket", "unknown scheme"),
        ("http://", "the host is missing"),
        ("http://store:port", "the port is not a number"),
        ("http://store one", "the host is malformed"),
        ("http://key:hidden@store", "an endpoint has no login; give it as DARKROOM_S3_ACCESS_KEY_ID"),
        ("https://store/?region=x", "an endpoint has no parameters"),
    ],
)
def test_each_mistake_in_an_endpoint_is_named(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check_endpoint_url(url)
    assert "hid" not in str(error.value)


def test_an_endpoint_is_kept() -> None:
    for url in ("http://127.0.0.1:9000", "https://s3.example.com", "http://seaweed_fs:80/path", "http://[::1]:9000"):
        assert check_endpoint_url(url) == url
