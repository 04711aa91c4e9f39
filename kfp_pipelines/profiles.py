"""Node profiles: the nodes, resources and secrets of a stage. A file defines them by name, such as:

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
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from kfp_pipelines.pod_fields import (
    Key,
    LabelKey,
    LabelValue,
    Name,
    OptionalName,
    check_node_affinity,
    find_mistakes,
)
from training.errors import DarkroomError, describe_permitted

QUANTITY = r"^[0-9]+(\.[0-9]+)?([EPTGMK]i|[kMGTPE]|m)?$"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_CORES = 10_000
MAX_SECONDS = 2**31 - 1  # of a pod's activeDeadlineSeconds
DEFAULT = "default"
GPU = "gpu"
GPU_STAGES = ("train-", "encode-", "evaluate-", "gate")  # prefixes of the stages that use an accelerator


class ProfileError(DarkroomError):
    """A profile is missing or invalid; the message names the field and what is permitted."""


def _as_text(value: Any) -> Any:
    """Return a number as text, because a file may have `cpu: 4`, as a pod may."""
    return str(value) if type(value) in (int, float) else value


Quantity = Annotated[str, BeforeValidator(_as_text)]


class Toleration(BaseModel):
    """A toleration, as in the specification of a pod."""

    model_config = ConfigDict(extra="forbid")

    key: LabelKey | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoExecute", "NoSchedule", "PreferNoSchedule"] | None = None
    tolerationSeconds: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def check_together(self) -> "Toleration":
        """Reject fields that Kubernetes does not permit together."""
        if self.operator == "Exists" and self.value:
            raise ValueError(f"value: {self.value} and operator Exists are both given; permitted: one")
        if self.operator == "Equal" and not self.key:
            raise ValueError("key: must be given, or operator: Exists")
        if self.tolerationSeconds is not None and self.effect != "NoExecute":
            raise ValueError(f"tolerationSeconds: {self.tolerationSeconds} requires effect: NoExecute")
        return self


class Profile(BaseModel):
    """What a stage requests from the cluster. The chart uses the same field names."""

    model_config = ConfigDict(extra="forbid")

    nodeSelector: dict[LabelKey, LabelValue] = {}
    tolerations: list[Toleration] = []
    affinity: dict[str, Any] = Field({}, description="as in a pod; other than nodeAffinity only with trainJob")
    priorityClassName: OptionalName = Field("", description="only with trainJob")
    runtimeClassName: OptionalName = Field("", description="only with trainJob")
    imagePullSecrets: list[Name] = []
    accelerator: str = Field(
        "nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", description="resource name, also of MIG slices"
    )
    count: int = Field(0, ge=0, le=64, description="accelerators per pod")
    queueName: str = Field("", pattern=r"^$|^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", description="Kueue's local queue")
    cpu: Quantity = Field("2", pattern=QUANTITY)
    memory: Quantity = Field("8Gi", pattern=QUANTITY)
    shm: Quantity = Field("8Gi", pattern=QUANTITY, description="size of /dev/shm, which counts towards memory")
    ephemeralStorage: Quantity = Field("", pattern=f"^$|{QUANTITY}", description="size of /tmp; empty: the image's own")
    storageClass: OptionalName = Field("", description="of an ephemeral volume for /tmp; empty: the node's disk")
    timeout: str = Field("48h", pattern=r"^[1-9][0-9]*[smhd]$")
    retries: int = Field(3, ge=0, le=100)
    secrets: dict[Name, dict[Key, str]] = Field({}, description="secret: {key: environment variable}")
    env: dict[str, str] = Field({}, description="environment variables without secrets")
    pvc: dict[Name, str] = Field({}, description="claim: mount path")
    configMaps: dict[Name, str] = Field({}, description="ConfigMap: mount path, such as a CA bundle's")
    trainJob: bool = Field(False, description="train as a Kubeflow TrainJob")
    nodes: int = Field(1, ge=1, le=1024, description="nodes of the TrainJob")

    @model_validator(mode="after")
    def check_train_job(self) -> "Profile":
        """Reject what Kubeflow Pipelines cannot set on a stage's pod, unless the stage is a TrainJob."""
        if self.trainJob:
            return self
        if self.nodes > 1:
            raise ValueError(f"nodes: {self.nodes} requires trainJob: true")
        for name in ("priorityClassName", "runtimeClassName"):
            if getattr(self, name):
                raise ValueError(
                    f"{name}: {getattr(self, name)} requires trainJob: true; for the pods of stages, set it in "
                    "workflowDefaults of Argo's controller"
                )
        if others := self.affinity.keys() - {"nodeAffinity"}:
            raise ValueError(f"affinity: {', '.join(sorted(others))} requires trainJob: true; permitted: nodeAffinity")
        return self

    @model_validator(mode="after")
    def check_pod(self) -> "Profile":
        """Reject fields with which Kubernetes would refuse every pod of the profile."""
        if "nodeAffinity" in self.affinity:
            check_node_affinity(self.affinity["nodeAffinity"])
        taken = {"/dev/shm": "shm"} | ({"/tmp": "ephemeralStorage"} if self.ephemeralStorage else {})
        mounts = [("pvc", self.pvc), ("configMaps", self.configMaps)]
        of_secrets = [(f"secrets.{name}", list(keys.values())) for name, keys in self.secrets.items()]
        variables = [("env", list(self.env)), *of_secrets]
        if mistake := next(find_mistakes(mounts, taken, variables, named_after=not self.trainJob), None):
            raise ValueError(mistake)
        return self

    @model_validator(mode="after")
    def check_sizes(self) -> "Profile":
        """Reject sizes with which no pod could start, and a volume without a size."""
        for name in ("memory", "shm", "ephemeralStorage"):
            if (size := getattr(self, name)) and parse_quantity(size) < 2**20:
                raise ValueError(f"{name}: {size} is less than 1Mi; permitted: bytes, with a unit such as Mi or Gi")
        if not 0 < parse_quantity(self.cpu) <= MAX_CORES:
            raise ValueError(f"cpu: {self.cpu} is not allowed; permitted: 1m to {MAX_CORES}, in cores")
        if self.seconds > MAX_SECONDS:
            raise ValueError(f"timeout: {self.timeout} is too long; permitted: at most {MAX_SECONDS // 86400}d")
        if "shm" not in self.model_fields_set and parse_quantity(self.shm) > parse_quantity(self.memory):
            self.shm = self.memory
        if parse_quantity(self.shm) > parse_quantity(self.memory):
            raise ValueError(f"shm: {self.shm} is above memory, {self.memory}, of which it is a part")
        if self.storageClass and not self.ephemeralStorage:
            raise ValueError(f"storageClass: {self.storageClass} requires ephemeralStorage, the size of the volume")
        return self

    @property
    def seconds(self) -> int:
        """The timeout in seconds."""
        return int(self.timeout[:-1]) * SECONDS[self.timeout[-1]]


def parse_quantity(quantity: str) -> float:
    """Return the value of a Kubernetes quantity, such as 1024 for `1Ki`."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]  # of QUANTITY
    power = "kmgtpe".find(unit[:1].lower()) + 1 if unit and unit != "m" else 0
    return float(number) * (0.001 if unit == "m" else (1024 if unit.endswith("i") else 1000) ** power)


@dataclass(frozen=True)
class Profiles:
    """The profile of each stage: the one chosen for it, else `default` if it exists."""

    by_name: Mapping[str, Profile] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)  # of a profile, by stage

    def find(self, stage: str) -> Profile | None:
        """Return the profile of a stage, or None."""
        return self.by_name.get(self.names.get(stage, DEFAULT))

    def for_task(self, stage: str) -> Profile | None:
        """Return the profile of the task: `default` for a task that only creates a TrainJob and waits for it."""
        return self.by_name.get(DEFAULT) if self.job_profile(stage) else self.find(stage)

    def devices(self, stage: str) -> int:
        """Return how many accelerators train together in a stage, on all of its nodes."""
        profile = self.find(stage)
        return 1 if profile is None else max(1, profile.nodes * profile.count)

    def job_profile(self, stage: str) -> str:
        """Return the profile of a stage as JSON if it trains as a TrainJob, else an empty text."""
        profile = self.find(stage)
        return profile.model_dump_json() if profile is not None and profile.trainJob else ""


def read_profiles(path: Path | None, choices: Sequence[str], stages: Sequence[str]) -> Profiles:
    """Read the profiles of a file and assign them to stages. choices: STAGE=NAME, or NAME for all other stages.

    gpu=NAME applies to all stages that use an accelerator. Raises ProfileError.
    """
    by_name = {} if path is None else _parse(path)
    names: dict[str, str] = {}
    for choice in sorted(choices, key=_narrowness):  # so that a choice for one stage wins
        stage, _, name = choice.rpartition("=")
        if name not in by_name:
            defined = ", ".join(by_name) or "none, give a file with --profiles"
            raise ProfileError(f"profile: {name!r} is not defined; defined: {defined}")
        if stage and stage not in (GPU, *stages):
            raise ProfileError(f"profile: {stage!r} is not a stage; permitted: {GPU}, {', '.join(stages)}")
        chosen = {"": stages, GPU: [one for one in stages if one.startswith(GPU_STAGES)]}.get(stage, [stage])
        names |= dict.fromkeys(chosen, name)
    return Profiles(by_name, names)


def _narrowness(choice: str) -> int:
    """Return 0 for all stages, 1 for those with an accelerator, 2 for one stage."""
    if "=" not in choice:
        return 0
    return 1 if choice.startswith(f"{GPU}=") else 2


def _parse(path: Path) -> dict[str, Profile]:
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ProfileError(f"profiles: {path} cannot be read: {error}") from None
    if not isinstance(document, dict) or not all(re.fullmatch(r"[a-z][a-z0-9-]{0,62}", str(name)) for name in document):
        raise ProfileError(f"profiles: {path} must map names (a-z, 0-9 and -, at most 63 characters) to profiles")
    profiles = {}
    for name, body in document.items():
        try:
            profiles[name] = Profile.model_validate(body)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            message = describe_permitted(problem["msg"])
            if problem["type"] == "extra_forbidden":
                message = f"there is no such field; permitted: {', '.join(Profile.model_fields)}"
            elif problem["type"] != "value_error":
                message = f"{problem['input']!r} is not allowed; {message}"
            raise ProfileError(f"profiles: {path}: {'.'.join(map(str, (name, *problem['loc'])))}: {message}") from None
    return profiles
