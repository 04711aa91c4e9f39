"""The settings of a process, read from DARKROOM_* variables. Only commands build them."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from services import urls
from services.errors import quote
from services.local_stack.logins import Role, local_values
from services.local_stack.state import read, stack_root
from training.errors import DarkroomError, describe_permitted

Kind = TypeVar("Kind", bound="StoreSettings | DatabaseSettings")

QUEUE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
LISTS = ("queues", "preload", "console_hosts", "console_operators")  # which may be empty
NAMES_FORM = 'permitted: one or more names, as a,b or as JSON, ["a", "b"]'


class SettingsError(DarkroomError):
    """A setting is missing or malformed; the message names its variable."""


def split_names(value: Any) -> Any:
    """Return the names of a list that is written as `a,b` or as JSON, without repetitions."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = json.loads(text)
            except ValueError:
                raise ValueError(f"not JSON; {NAMES_FORM}") from None
        else:
            value = text.split(",")
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"not a list of names; {NAMES_FORM}")
    return list(dict.fromkeys(name.strip() for name in value if name.strip()))


def _check_queues(names: list[str]) -> list[str]:
    if not names:
        raise ValueError(f"no name is given; {NAMES_FORM}")
    for name in names:
        if not QUEUE_NAME.fullmatch(name):
            raise ValueError(f"{quote(name)} is not the name of a queue; permitted: a-z, 0-9, _ and -, at most 63")
    return names


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _expand_home(path: Path) -> Path:
    return path.expanduser()


def _check_secret_url(check: Any) -> Any:
    """Return a validator that applies `check` to the text of a secret."""
    return AfterValidator(lambda secret: SecretStr(check(secret.get_secret_value())))


class Base(BaseModel):
    """A variable that is set to nothing is a mistake, such as a Secret without the key, except for lists."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        value = value.strip()  # a Secret made from a file often ends with a line feed
        if not value and info.field_name not in LISTS:
            raise ValueError("it is empty; set it, or remove it for the default")
        return value


class StoreSettings(Base):
    """Settings to reach S3, which is all that a training stage needs. Their repr masks secrets."""

    s3_bucket: str = Field(pattern=r"^[a-zA-Z0-9._-]{1,255}$", description="the bucket of releases and outputs")
    s3_endpoint_url: Annotated[str | None, AfterValidator(lambda url: url and urls.check_endpoint_url(url))] = Field(
        None, description="for stores other than AWS"
    )
    s3_region: str = Field("us-east-1", pattern=r"^[a-zA-Z0-9-]{1,63}$", description="a region, such as us-east-1")
    s3_access_key_id: SecretStr | None = Field(
        None, description="unset: boto3's default credentials, such as a role or a profile"
    )
    s3_secret_access_key: SecretStr | None = Field(
        None, validate_default=True, description="the secret of the access key"
    )

    @field_validator("s3_secret_access_key")
    @classmethod
    def _is_paired(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if "s3_access_key_id" in info.data and (info.data["s3_access_key_id"] is None) != (secret is None):
            raise ValueError("set both DARKROOM_S3_ACCESS_KEY_ID and DARKROOM_S3_SECRET_ACCESS_KEY, or neither")
        return secret


class DatabaseSettings(Base):
    """Settings to reach Postgres and to be monitored: enough for the exporter and most commands."""

    database_url: Annotated[SecretStr, _check_secret_url(urls.parse_database_url)] = Field(
        description=urls.DATABASE_FORM
    )
    stale_s: float = Field(
        30.0, gt=0, description="seconds without a heartbeat after which the leases of a process are lost"
    )
    metrics_host: str = Field("127.0.0.1", description="the address to serve /metrics on")
    metrics_port: int = Field(0, ge=0, le=65535, description="the port to serve /metrics on; 0: none")
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = "text"
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = "INFO"


class Settings(StoreSettings, DatabaseSettings):
    """All settings of a worker or a dispatcher."""

    broker_url: Annotated[SecretStr, _check_secret_url(urls.check_broker_url)] | None = Field(
        None, description=f"{urls.BROKER_FORM}, for the dispatcher and workers"
    )
    cache_dir: Annotated[Path, AfterValidator(_expand_home)] = Field(
        Path("~/.cache/darkroom").expanduser(), description="the folder of releases downloaded from S3"
    )
    cache_gb: float = Field(100.0, gt=0, description="GiB of releases to keep in cache_dir")
    cache_seed: Path | None = Field(None, description="a read-only folder like cache_dir, such as one in an image")

    queues: Annotated[list[str], BeforeValidator(split_names), AfterValidator(_check_queues)] = Field(
        ["default"], description="the queues a worker serves"
    )
    preload: Annotated[list[str], BeforeValidator(split_names)] = Field(
        [], description="releases that a worker loads before it is ready"
    )
    rows: int = Field(32, ge=2, le=1024, description="rows of the network's batch in a denoising step")
    device: Annotated[Literal["auto", "cpu", "cuda"], BeforeValidator(_lower)] = "auto"
    profile: Annotated[Literal["auto", "fp32", "fp32-compiled", "bf16", "bf16-compiled"], BeforeValidator(_lower)] = (
        Field("auto", description="precision, and whether steps are compiled; auto: the fastest on a GPU, else fp32")
    )
    compile_limit_s: float = Field(
        900.0, gt=0, description="seconds that compiling the networks of a release may take; see compile_late"
    )
    compile_late: Annotated[Literal["fail", "eager"], BeforeValidator(_lower)] = Field(
        "fail", description="if compilation takes too long: fail, which does not serve the release, or eager"
    )
    model_memory_gb: float = Field(16.0, gt=0, description="GiB of weights that a worker keeps loaded")
    step_limit_s: float = Field(
        300.0, gt=0, description="seconds after which a step counts as hung and the process exits"
    )
    pod: str = Field(
        "", pattern=r"^[a-z0-9.-]{0,253}$", description="the pod to annotate with the number of leases that it holds"
    )
    drain_s: float = Field(25.0, ge=0, description="seconds that a stopping worker has to finish images")
    poll_s: float = Field(1.0, gt=0, le=60, description="seconds between polls of the queue without a hint")
    heartbeat_s: float = Field(5.0, gt=0, le=60, description="seconds between heartbeats")


def load(role: Role, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of a process of `role`. Raises SettingsError.

    A value that no DARKROOM_* variable gives comes from the local stack.
    """
    settings = build(Settings, role, environ)
    if role in ("dispatcher", "worker") and settings.broker_url is None:
        raise SettingsError(f"DARKROOM_BROKER_URL: field required ({urls.BROKER_FORM})")
    return settings


def load_store(environ: Mapping[str, str] = os.environ) -> StoreSettings:
    """Return the settings of a process that needs S3 only. Raises SettingsError."""
    return build(StoreSettings, "worker", environ)


def load_database(role: Role, environ: Mapping[str, str] = os.environ) -> DatabaseSettings:
    """Return the settings of a process of `role` that needs Postgres only. Raises SettingsError."""
    return build(DatabaseSettings, role, environ)


def build(kind: type[Kind], role: Role, environ: Mapping[str, str]) -> Kind:
    """Return the settings of a kind, for a process of `role`. Raises SettingsError."""
    folder = stack_root(environ)
    state = read(folder)
    local: dict[str, Any] = {**local_values(state, role, folder)} if state else {}
    given = {name: environ[_variable(name)] for name in kind.model_fields if _variable(name) in environ}
    try:
        return kind(**{name: value for name, value in {**local, **given}.items() if name in kind.model_fields})
    except ValidationError as error:
        raise SettingsError(_describe(error, kind, folder)) from None


def _variable(name: str) -> str:
    return f"DARKROOM_{name.upper()}"


def _describe(error: ValidationError, kind: type[Base], folder: Path) -> str:
    """Return one line for each mistake, and what to do about missing variables. No line contains a secret."""
    lines = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0])
        message = describe_permitted(problem["msg"])
        field = kind.model_fields[name]
        line = f"{_variable(name)}: "
        if problem["type"] not in ("missing", "value_error") and "Secret" not in str(field.annotation):
            line += f"{quote(problem['input'])} is not allowed; "
        line += f"{message[0].lower()}{message[1:]}"
        if field.description and field.description not in message:
            line += f" ({field.description})"
        lines.append(line)
    if any(problem["type"] == "missing" for problem in error.errors()):
        lines.append(f"There is no local stack in {folder}: start one with `darkroom up`, or set the variables.")
    return "\n".join(lines)
