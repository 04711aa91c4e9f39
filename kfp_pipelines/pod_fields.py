"""The fields that Kubernetes permits in the pods of a profile, so that a mistake is found before submission."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import describe_permitted

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # of DNS, as in RFC 1123
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]  # of an object, as in RFC 1123
OptionalName = Annotated[str, Field(pattern=r"^$|^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]  # of a Secret
LabelKey = Annotated[
    str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, Field(pattern=r"^$|^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Requirement(_Strict):
    """What a node's label or field must be."""

    key: str = Field(min_length=1)
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: list[str] = []


class NodeSelectorTerm(_Strict):
    """Requirements that a node must meet together."""

    matchExpressions: list[Requirement] = []
    matchFields: list[Requirement] = []


class NodeSelector(_Strict):
    """Terms of which a node must match one."""

    nodeSelectorTerms: list[NodeSelectorTerm] = Field(min_length=1)


class PreferredTerm(_Strict):
    """A term that counts for the nodes that match it."""

    weight: int = Field(ge=1, le=100)
    preference: NodeSelectorTerm


class NodeAffinity(_Strict):
    """A pod's affinity to nodes."""

    requiredDuringSchedulingIgnoredDuringExecution: NodeSelector | None = None
    preferredDuringSchedulingIgnoredDuringExecution: list[PreferredTerm] = []


def check_node_affinity(affinity: Any) -> None:
    """Raise ValueError if this is no node affinity; the message names the field."""
    try:
        NodeAffinity.model_validate(affinity)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("nodeAffinity", *problem["loc"])))
        raise ValueError(f"affinity: {where}: {describe_permitted(problem['msg'])}") from None


def find_mistakes(
    mounts: Sequence[tuple[str, Mapping[str, str]]],
    taken: Mapping[str, str],
    variables: Sequence[tuple[str, Sequence[str]]],
    *,
    named_after: bool,
) -> Iterator[str]:
    """Yield what is wrong with mounts (field, {object: path}) and with environment variables (field, names).

    taken: the field of each path that is in use. named_after: whether a volume has the name of its object, as Kubeflow
    Pipelines names it.
    """
    paths, volumes = dict(taken), {field: field for field in ("shm", "tmp")}
    for field, objects in mounts:
        for name, path in objects.items():
            if not path.strip("/") or ":" in path or not path.startswith("/"):
                yield f"{field}: {name} has the path {path}; permitted: an absolute path of a folder, without a colon"
            if other := paths.get(path):
                yield f"{field}: {name} has the path {path}, which {other} has; permitted: another"
            paths[path] = f"{field}.{name}"
            if not named_after:
                continue
            if not LABEL.fullmatch(name):
                yield (
                    f"{field}: {name} cannot be mounted, because Kubeflow Pipelines gives the volume its name; "
                    "permitted: a-z, 0-9 and -, at most 63, or trainJob: true"
                )
            if other := volumes.get(name):
                yield f"{field}: {name} and {other} would be two volumes of one name; permitted: another name"
            volumes[name] = f"{field}.{name}"
    owners: dict[str, str] = {}
    for field, names in variables:
        for name in names:
            if not VARIABLE.fullmatch(name):
                yield f"{field}: {name!r} is not allowed; permitted: the name of an environment variable"
            if name in owners:
                yield f"{field}: {name} is given by {owners[name]} too; permitted: one value"
            owners[name] = field
