"""All settings of a process, read from DARKROOM_* variables. Built only by the commands of services/cli."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.local_stack.logins import Role, local_values
from services.local_stack.state import read, stack_root
from training.errors import DarkroomError

Kind = TypeVar("Kind", bound="BaseSettings")


class SettingsError(DarkroomError):
    """A setting is missing or malformed; the message names its variable."""


class StoreSettings(BaseSettings):
    """What it takes to reach S3, which is all that a training stage needs. Secrets are shown as asterisks."""

    model_config = SettingsConfigDict(env_prefix="DARKROOM_", frozen=True)

    s3_bucket: str = Field(description="the bucket of releases and outputs")
    s3_endpoint_url: str | None = Field(None, description="for stores other than AWS")
    s3_region: str = "us-east-1"
    s3_access_key_id: SecretStr | None = Field(None, description="unset: boto3's own chain (roles, profiles)")
    s3_secret_access_key: SecretStr | None = None


class DatabaseSettings(BaseSettings):
    """What it takes to reach Postgres, and to be watched: enough for the exporter and most commands."""

    model_config = SettingsConfigDict(env_prefix="DARKROOM_", frozen=True)

    database_url: SecretStr = Field(description="postgresql://login:password@host:port/database")
    stale_s: float = Field(30.0, gt=0, description="seconds without a heartbeat after which leases are taken back")
    metrics_host: str = Field("127.0.0.1", description="the address on which /metrics is served")
    metrics_port: int = Field(0, ge=0, le=65535, description="its port; 0: not served")
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Settings(StoreSettings, DatabaseSettings):
    """What a process of the service needs to reach the rest."""

    broker_url: SecretStr | None = Field(None, description="redis://:password@host:port/0; of dispatcher and worker")
    cache_dir: Path = Field(Path("~/.cache/darkroom").expanduser(), description="releases fetched from S3")
    cache_gb: float = Field(100.0, gt=0, description="GiB of releases that are kept there")

    queues: list[str] = Field(["default"], description="the queues a worker serves")
    preload: list[str] = Field([], description="releases that a worker loads before it is ready")
    rows: int = Field(32, ge=2, le=1024, description="network rows of every denoising step")
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$")
    model_memory_gb: float = Field(16.0, gt=0, description="GiB of weights that a worker keeps loaded")
    step_limit_s: float = Field(300.0, gt=0, description="seconds after which a step hangs and the process ends")
    drain_s: float = Field(25.0, ge=0, description="seconds a stopping worker may finish images in")
    poll_s: float = Field(1.0, gt=0, le=60, description="seconds between looks at the queue when no hint comes")
    heartbeat_s: float = Field(5.0, gt=0, le=60)


def load(role: Role, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a process: DARKROOM_* variables, else the local stack's. Raises SettingsError."""
    settings = _loaded(Settings, role, environ)
    if role in ("dispatcher", "worker") and settings.broker_url is None:
        raise SettingsError("DARKROOM_BROKER_URL: field required (redis://:password@host:port/0)")
    return settings


def load_store(environ: Mapping[str, str] = os.environ) -> StoreSettings:
    """The settings of a process that needs S3 alone. Raises SettingsError."""
    return _loaded(StoreSettings, "worker", environ)


def load_database(role: Role, environ: Mapping[str, str] = os.environ) -> DatabaseSettings:
    """The settings of a process that needs Postgres alone. Raises SettingsError."""
    return _loaded(DatabaseSettings, role, environ)


def _loaded(kind: type[Kind], role: Role, environ: Mapping[str, str]) -> Kind:
    folder = stack_root(environ)
    state = read(folder)
    values: dict[str, Any] = {**local_values(state, role, folder)} if state else {}
    missing = {key for key in values if f"DARKROOM_{key.upper()}" not in environ} & kind.model_fields.keys()
    try:
        return kind(**{key: values[key] for key in missing})
    except ValidationError as error:
        raise SettingsError(_explain(error, folder)) from None


def _explain(error: ValidationError, folder: Path) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        name = str(problem["loc"][0])
        hint = Settings.model_fields[name].description if name in Settings.model_fields else None
        lines.append(f"DARKROOM_{name.upper()}: {problem['msg'].lower()}" + (f" ({hint})" if hint else ""))
    if any(problem["type"] == "missing" for problem in error.errors()):
        lines.append(f"There is no local stack in {folder} either: start one with `darkroom up`, or set the variables.")
    return "\n".join(lines)
