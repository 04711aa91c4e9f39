"""Settings come from variables, else from the local stack; what is wrong is named."""

from pathlib import Path

import pytest

from services.local_stack import logins
from services.settings import SettingsError, load, load_database, load_store

VARIABLES = {
    "DARKROOM_DATABASE_URL": "postgresql+psycopg://me:hidden-password@db/darkroom",
    "DARKROOM_BROKER_URL": "redis://:hidden-password@broker/0",
    "DARKROOM_S3_BUCKET": "images",
}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv("DARKROOM_ROOT", str(tmp_path))
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_variables_are_read_and_secrets_not_shown(variables: pytest.MonkeyPatch) -> None:
    loaded = load("worker")
    assert loaded.database_url.get_secret_value() == VARIABLES["DARKROOM_DATABASE_URL"]
    assert "hidden-password" not in repr(loaded)


def test_what_is_missing_is_named_with_what_to_do(variables: pytest.MonkeyPatch) -> None:
    variables.delenv("DARKROOM_DATABASE_URL")
    with pytest.raises(SettingsError) as error:
        load("worker")
    assert "DARKROOM_DATABASE_URL: field required" in str(error.value)
    assert "darkroom up" in str(error.value)


def test_only_who_sends_or_takes_messages_needs_the_broker(variables: pytest.MonkeyPatch) -> None:
    variables.delenv("DARKROOM_BROKER_URL")
    assert load("publisher").broker_url is None
    for role in ("dispatcher", "worker"):
        with pytest.raises(SettingsError, match="DARKROOM_BROKER_URL: field required"):
            load(role)


def test_s3_alone_is_enough_for_who_needs_no_more(variables: pytest.MonkeyPatch) -> None:
    variables.delenv("DARKROOM_BROKER_URL")
    variables.delenv("DARKROOM_DATABASE_URL")
    assert load_store().s3_bucket == "images"
    variables.delenv("DARKROOM_S3_BUCKET")
    with pytest.raises(SettingsError, match="DARKROOM_S3_BUCKET: field required"):
        load_store()


def test_postgres_alone_is_enough_for_who_needs_no_more(variables: pytest.MonkeyPatch) -> None:
    variables.delenv("DARKROOM_BROKER_URL")
    variables.delenv("DARKROOM_S3_BUCKET")
    assert load_database("observer").database_url.get_secret_value() == VARIABLES["DARKROOM_DATABASE_URL"]
    variables.delenv("DARKROOM_DATABASE_URL")
    with pytest.raises(SettingsError, match="DARKROOM_DATABASE_URL: field required"):
        load_database("observer")


def test_a_malformed_value_is_named(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("DARKROOM_ROWS", "many")
    with pytest.raises(SettingsError, match="DARKROOM_ROWS: input should be a valid integer"):
        load("worker")


def test_each_mistake_has_one_line(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("DARKROOM_ROWS", "many")
    variables.setenv("DARKROOM_DEVICE", "tpu")
    with pytest.raises(SettingsError) as error:
        load("worker")
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["DARKROOM_ROWS", "DARKROOM_DEVICE"]


def test_local_passwords_differ_by_role_and_from_the_superusers() -> None:
    from services.local_stack import state

    stack = state.create({name: 20_000 + i for i, name in enumerate((*state.SERVICES, *state.SEAWEED_PORTS))})
    passwords = {logins.local_password(stack, role) for role in ("submitter", "dispatcher", "worker", "publisher")}
    assert len(passwords | {stack.postgres_password}) == 5
