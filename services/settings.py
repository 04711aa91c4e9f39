"""The settings of a process, read from DARKROOM_* variables. Only commands build them."""

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
    """Settings to reach S3, which is all that a training stage needs. Their repr masks secrets."""

    model_config = SettingsConfigDict(env_prefix="DARKROOM_", frozen=True)

    s3_bucket: str = Field(description="the bucket of releases and outputs")
    s3_endpoint_url: str | None = Field(None, description="for stores other than AWS")
    s3_region: str = "us-east-1"
    s3_access_key_id: SecretStr | None = Field(
        None, description="unset: boto3's default credentials, such as a role or a profile"
    )
    s3_secret_access_key: SecretStr | None = None


class DatabaseSettings(BaseSettings):
    """Settings to reach Postgres and to be monitored: enough for the exporter and most commands."""

    model_config = SettingsConfigDict(env_prefix="DARKROOM_", frozen=True)

    database_url: SecretStr = Field(description="postgresql://login:password@host:port/database")
    stale_s: float = Field(
        30.0, gt=0, description="seconds without a heartbeat after which the leases of a process are lost"
    )
    metrics_host: str = Field("127.0.0.1", description="the address to serve /metrics on")
    metrics_port: int = Field(0, ge=0, le=65535, description="the port to serve /metrics on; 0: none")
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Settings(StoreSettings, DatabaseSettings):
    """All settings of a worker or a dispatcher."""

    broker_url: SecretStr | None = Field(
        None, description="redis://:password@host:port/0, for the dispatcher and workers"
    )
    cache_dir: Path = Field(
        Path("~/.cache/darkroom").expanduser(), description="the folder of releases downloaded from S3"
    )
    cache_gb: float = Field(100.0, gt=0, description="GiB of releases to keep in cache_dir")

    queues: list[str] = Field(["default"], description="the queues a worker serves")
    preload: list[str] = Field([], description="releases that a worker loads before it is ready")
    rows: int = Field(32, ge=2, le=1024, description="rows of the network's batch in a denoising step")
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$")
    model_memory_gb: float = Field(16.0, gt=0, description="GiB of weights that a worker keeps loaded")
    step_limit_s: float = Field(
        300.0, gt=0, description="seconds after which a step counts as hung and the process exits"
    )
    drain_s: float = Field(25.0, ge=0, description="seconds that a stopping worker has to finish images")
    poll_s: float = Field(1.0, gt=0, le=60, description="seconds between polls of the queue without a hint")
    heartbeat_s: float = Field(5.0, gt=0, le=60, description="seconds between heartbeats")


def load(role: Role, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of a process of `role`. Raises SettingsError.

    A value that no DARKROOM_* variable gives comes from the local stack.
    """
    settings = _build(Settings, role, environ)
    if role in ("dispatcher", "worker") and settings.broker_url is None:
        raise SettingsError("DARKROOM_BROKER_URL: field required (redis://:password@host:port/0)")
    return settings


def load_store(environ: Mapping[str, str] = os.environ) -> StoreSettings:
    """Return the settings of a process that needs S3 only. Raises SettingsError."""
    return _build(StoreSettings, "worker", environ)


def load_database(role: Role, environ: Mapping[str, str] = os.environ) -> DatabaseSettings:
    """Return the settings of a process of `role` that needs Postgres only. Raises SettingsError."""
    return _build(DatabaseSettings, role, environ)


def _build(kind: type[Kind], role: Role, environ: Mapping[str, str]) -> Kind:
    folder = stack_root(environ)
    state = read(folder)
    values: dict[str, Any] = {**local_values(state, role, folder)} if state else {}
    missing = {key for key in values if f"DARKROOM_{key.upper()}" not in environ} & kind.model_fields.keys()
    try:
        return kind(**{key: values[key] for key in missing})
    except ValidationError as error:
        raise SettingsError(_describe(error, folder)) from None


def _describe(error: ValidationError, folder: Path) -> str:
    """Return one line for each mistake, and what to do about missing variables."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        name = str(problem["loc"][0])
        hint = Settings.model_fields[name].description if name in Settings.model_fields else None
        lines.append(f"DARKROOM_{name.upper()}: {problem['msg'].lower()}" + (f" ({hint})" if hint else ""))
    if any(problem["type"] == "missing" for problem in error.errors()):
        lines.append(f"There is no local stack in {folder}: start one with `darkroom up`, or set the variables.")
    return "\n".join(lines)
