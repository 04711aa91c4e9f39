"""Node profiles: on what kind of node a stage runs. Named in a file, the chart's ConfigMap or one of a laptop.

a100:
  nodeSelector: {cloud.google.com/gke-accelerator: nvidia-tesla-a100}
  tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
  accelerator: nvidia.com/gpu
  count: 1
  secrets: {darkroom-s3: {access-key-id: DARKROOM_S3_ACCESS_KEY_ID}}
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from kfp import kubernetes
from kfp.dsl import PipelineTask
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.errors import DarkroomError

QUANTITY = r"^[0-9]+(\.[0-9]+)?([EPTGM]i?|[kK]i?|m)?$"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DEFAULT = "default"
GPU = "gpu"
COMPUTES = ("train-", "encode-", "evaluate-", "gate")  # stages that profit from an accelerator


class ProfileError(DarkroomError):
    """A profile that does not exist or cannot be used; the message names the field and what is permitted."""


class Toleration(BaseModel):
    """As in a pod's specification."""

    model_config = ConfigDict(extra="forbid")

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoExecute", "NoSchedule", "PreferNoSchedule"] | None = None


class Profile(BaseModel):
    """What a stage asks of the cluster. Field names are the chart's."""

    model_config = ConfigDict(extra="forbid")

    nodeSelector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    accelerator: str = Field("nvidia.com/gpu", pattern=r"^[a-z0-9./-]+$", description="resource name, MIG's too")
    count: int = Field(0, ge=0, le=64, description="accelerators of a pod; 0: none")
    queueName: str = Field("", description="Kueue's local queue")
    cpu: str = Field("2", pattern=QUANTITY)
    memory: str = Field("8Gi", pattern=QUANTITY)
    shm: str = Field("8Gi", pattern=QUANTITY, description="of /dev/shm, in memory")
    timeout: str = Field("48h", pattern=r"^[1-9][0-9]*[smhd]$")
    retries: int = Field(3, ge=0, le=100)
    secrets: dict[str, dict[str, str]] = Field({}, description="secret: {key: environment variable}")
    env: dict[str, str] = Field({}, description="environment variables that are no secrets")
    pvc: dict[str, str] = Field({}, description="claim: where it is mounted")
    trainJob: bool = Field(False, description="training runs as a Kubeflow TrainJob")
    nodes: int = Field(1, ge=1, le=1024, description="of a TrainJob")

    @model_validator(mode="after")
    def many_nodes_are_a_job(self) -> "Profile":
        """One pod is on one node."""
        if self.nodes > 1 and not self.trainJob:
            raise ValueError(f"nodes: {self.nodes} need trainJob: true")
        return self

    @property
    def seconds(self) -> int:
        """The time-out."""
        return int(self.timeout[:-1]) * SECONDS[self.timeout[-1]]


@dataclass(frozen=True)
class Profiles:
    """The profile of each stage: its own, else the one called `default`, else none."""

    named: Mapping[str, Profile] = field(default_factory=dict)
    of_stages: Mapping[str, str] = field(default_factory=dict)

    def of(self, stage: str) -> Profile | None:
        """What a stage runs on."""
        return self.named.get(self.of_stages.get(stage, DEFAULT))

    def job(self, stage: str) -> str:
        """The stage's profile as JSON where it trains as a TrainJob, else nothing."""
        profile = self.of(stage)
        return profile.model_dump_json() if profile is not None and profile.trainJob else ""

    def apply(self, task: PipelineTask, stage: str) -> PipelineTask:
        """Set everything that the stage's profile asks for."""
        task.set_display_name(stage)
        # The pod that creates a TrainJob and waits for it is a small one.
        profile = self.named.get(DEFAULT) if self.job(stage) else self.of(stage)
        if profile is None:
            return task
        task.set_cpu_request(profile.cpu).set_cpu_limit(profile.cpu)
        task.set_memory_request(profile.memory).set_memory_limit(profile.memory)
        if profile.count:
            task.set_accelerator_type(profile.accelerator).set_accelerator_limit(profile.count)
        if profile.retries:
            task.set_retry(profile.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration="3600s")
        kubernetes.set_timeout(task, profile.seconds)
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=profile.shm)
        for key, value in profile.nodeSelector.items():
            kubernetes.add_node_selector(task, key, value)
        for toleration in profile.tolerations:
            kubernetes.add_toleration(task, **toleration.model_dump(exclude_none=True))
        for secret, keys in profile.secrets.items():
            kubernetes.use_secret_as_env(task, secret, keys)
        for name, value in profile.env.items():
            task.set_env_variable(name, value)
        for claim, path in profile.pvc.items():
            kubernetes.mount_pvc(task, claim, path)
        if profile.queueName:
            kubernetes.add_pod_label(task, QUEUE_LABEL, profile.queueName)
        return task


def read(path: Path | None, choices: Sequence[str], stages: Sequence[str]) -> Profiles:
    """The profiles of a file, and which stage takes which: choices are STAGE=NAME, or NAME for all other stages.

    GPU=NAME stands for all stages that compute on accelerators. Raises ProfileError.
    """
    named = {} if path is None else _parse(path)
    of_stages: dict[str, str] = {}
    # From the widest to the narrowest, so that a stage's own choice counts.
    for choice in sorted(choices, key=lambda one: 0 if "=" not in one else 1 if one.startswith(f"{GPU}=") else 2):
        stage, _, name = choice.rpartition("=")
        if name not in named:
            raise ProfileError(
                f"profile: {name!r} is not defined; there are: {', '.join(named) or 'none, give a file'}"
            )
        if stage and stage not in (GPU, *stages):
            raise ProfileError(f"profile: {stage!r} is no stage; permitted: {GPU}, {', '.join(stages)}")
        chosen = {"": stages, GPU: [one for one in stages if one.startswith(COMPUTES)]}.get(stage, [stage])
        of_stages |= dict.fromkeys(chosen, name)
    return Profiles(named, of_stages)


def _parse(path: Path) -> dict[str, Profile]:
    try:
        document: Any = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ProfileError(f"profiles: {path} cannot be read: {error}") from None
    if not isinstance(document, dict) or not all(re.fullmatch(r"[a-z][a-z0-9-]{0,62}", str(name)) for name in document):
        raise ProfileError(f"profiles: {path} must map names (a-z, 0-9 and -, at most 63) to profiles")
    profiles = {}
    for name, body in document.items():
        try:
            profiles[name] = Profile.model_validate(body)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, problem["loc"]))
            permitted = (
                f"; permitted: {', '.join(Profile.model_fields)}" if problem["type"] == "extra_forbidden" else ""
            )
            raise ProfileError(
                f"profiles: {path}: {name}.{where}: {problem['msg']}, got {problem['input']!r}{permitted}"
            ) from None
    return profiles
