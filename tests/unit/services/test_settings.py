"""Settings come from variables, else from the local stack; what is wrong is named."""

from pathlib import Path

import pytest

from services.local_stack import logins
from services.settings import SettingsError, load, load_database, load_store
from tests.support.commands import call_darkroom

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
    with pytest.raises(SettingsError, match=r"DARKROOM_ROWS: '\w+' is not allowed; permitted: a valid integer \("):
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


@pytest.mark.parametrize("value", ["a,b", " a , b ", "a,,b,", "a,b,a", '["a", "b"]', ' ["a", "b", "a"]'])
def test_a_list_is_written_with_commas_or_as_json(variables: pytest.MonkeyPatch, value: str) -> None:
    variables.setenv("DARKROOM_QUEUES", value)
    variables.setenv("DARKROOM_PRELOAD", value)
    loaded = load("worker")
    assert loaded.queues == loaded.preload == ["a", "b"]


@pytest.mark.parametrize("value", ["", ",", "[]", "[a", "[1]", '{"a": 1}', "A b", "a;b", "null x"])
def test_a_wrong_list_is_named_with_what_is_permitted(variables: pytest.MonkeyPatch, value: str) -> None:
    variables.setenv("DARKROOM_QUEUES", value)
    with pytest.raises(SettingsError, match=r"^DARKROOM_QUEUES: [^\n]*permitted: [^\n]*$"):
        load("worker")


def test_no_release_need_be_preloaded(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("DARKROOM_PRELOAD", "")
    assert load("worker").preload == []


def test_choices_are_read_in_any_case(variables: pytest.MonkeyPatch) -> None:
    for name, value in {"LOG_LEVEL": "debug", "LOG_FORMAT": "JSON", "DEVICE": "CPU"}.items():
        variables.setenv(f"DARKROOM_{name}", value)
    loaded = load("worker")
    assert (loaded.log_level, loaded.log_format, loaded.device) == ("DEBUG", "json", "cpu")
    variables.setenv("DARKROOM_LOG_LEVEL", "loud")
    with pytest.raises(SettingsError, match=r"DARKROOM_LOG_LEVEL: 'LOUD' is not allowed; permitted: 'DEBUG', 'INFO'"):
        load("worker")


EMPTY = ["DATABASE_URL", "BROKER_URL", "S3_BUCKET", "S3_ENDPOINT_URL", "S3_REGION", "CACHE_DIR", "ROWS", "LOG_LEVEL"]


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("value", ["", " \n"])
def test_a_variable_that_is_set_to_nothing_is_named(variables: pytest.MonkeyPatch, name: str, value: str) -> None:
    variables.setenv(f"DARKROOM_{name}", value)
    with pytest.raises(SettingsError, match=rf"^DARKROOM_{name}: it is empty[^\n]*$"):
        load("worker")


WRONG = {
    "DATABASE_URL": "postgresql://me:hid@den@db/darkroom",
    "BROKER_URL": "redis://:hid#den@broker/0",
    "S3_ENDPOINT_URL": "http://key:hidden@store",
    "S3_BUCKET": "s3://images",
    "S3_REGION": "us east",
    "S3_SECRET_ACCESS_KEY": "hidden",
    "CACHE_GB": "inf",
    "METRICS_PORT": "70000",
}


def test_each_wrong_variable_has_one_line_without_secrets(variables: pytest.MonkeyPatch) -> None:
    for name, value in WRONG.items():
        variables.setenv(f"DARKROOM_{name}", value)
    with pytest.raises(SettingsError) as error:
        load("worker")
    lines = str(error.value).splitlines()
    assert {line.split(":")[0] for line in lines} == {f"DARKROOM_{name}" for name in WRONG}
    assert len(lines) == len(WRONG)
    assert "hid" not in str(error.value)
    assert "den" not in str(error.value)


def test_a_line_feed_at_the_end_of_a_secret_is_ignored(variables: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        variables.setenv(name, f"{value}\n")
    assert load("worker").database_url.get_secret_value() == VARIABLES["DARKROOM_DATABASE_URL"]


def test_a_home_folder_is_expanded(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("DARKROOM_CACHE_DIR", "~/releases")
    assert load("worker").cache_dir == Path.home() / "releases"


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["down"], ["worker", "--help"], ["jobs", "--help"]])
def test_a_command_without_settings_reads_none(
    variables: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    for name, value in WRONG.items():
        variables.setenv(f"DARKROOM_{name}", value)
    assert call_darkroom(capsys, tmp_path, *command).returncode == 0


@pytest.mark.parametrize("command", [["check"], ["worker"], ["dispatcher"], ["exporter"], ["jobs", "list"], ["prune"]])
def test_a_command_with_a_wrong_variable_ends_with_its_line(
    variables: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    variables.setenv("DARKROOM_DATABASE_URL", WRONG["DATABASE_URL"])
    done = call_darkroom(capsys, tmp_path, *command)
    assert done.returncode == 1
    assert done.stderr.startswith("error: DARKROOM_DATABASE_URL: percent-encode")
    assert done.stderr.count("\n") == 1
    assert "den" not in done.stdout + done.stderr
