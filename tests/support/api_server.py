"""The rules by which an API server drops, defaults and refuses what a chart renders, and who a namespace admits."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

# Where an empty object has a meaning of its own: "all", or "with defaults".
MEANT = {"emptyDir", "podSelector", "namespaceSelector", "labelSelector", "matchLabels"}
# Volume types that the restricted Pod Security Standard permits.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
# By which field an API server tells the elements of a list apart; it refuses two that are equal.
MERGE_KEYS = {"env": "name", "volumeMounts": "mountPath", "volumes": "name", "containers": "name", "ports": "name",
              "initContainers": "name", "imagePullSecrets": "name"}  # fmt: skip
NOT_CANONICAL = re.compile(r"[0-9]+000m|(?:[0-9]*[02468])?1024(?:Ki|Mi|Gi)|.*\.[0-9]*0[A-Za-z]*")
TEMPLATES = {"Deployment", "StatefulSet", "Job"}


def find_dropped(value: Any, path: str = "", key: str = "") -> Iterator[str]:
    """Yield the paths of fields that an API server drops or does not keep: a comparison would never find them equal."""
    match value:
        case None:
            yield f"{path}: null"
        case dict() if not value and key not in MEANT:
            yield f"{path}: an empty object"
        case list() if not value:
            yield f"{path}: an empty list"
        case dict():
            for name, part in value.items():
                yield from find_dropped(part, f"{path}.{name}", name)
        case list():
            for number, part in enumerate(value):
                yield from find_dropped(part, f"{path}[{number}]")
    if key == "stringData":
        yield f"{path}: kept as data"
    if key in ("requests", "limits") and isinstance(value, dict):
        yield from (f"{path}.{name}: {one}" for name, one in value.items() if NOT_CANONICAL.fullmatch(str(one)))


def find_repeated(value: Any, path: str = "") -> Iterator[str]:
    """Yield the lists in which two elements have the same merge key."""
    if isinstance(value, list):
        for number, part in enumerate(value):
            yield from find_repeated(part, f"{path}[{number}]")
    if isinstance(value, dict):
        for name, part in value.items():
            if name in MERGE_KEYS and isinstance(part, list):
                counts = Counter(one[MERGE_KEYS[name]] for one in part if MERGE_KEYS[name] in one)
                yield from (f"{path}.{name}: {one}" for one, count in counts.items() if count > 1)
            yield from find_repeated(part, f"{path}.{name}")


def find_inadmissible(spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield why a namespace that enforces the restricted Pod Security Standard refuses a pod."""
    of_pod = spec.get("securityContext", {})
    yield from (f"{field}: true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field))
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        context, name = container.get("securityContext", {}), container["name"]
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation"
        if "ALL" not in context.get("capabilities", {}).get("drop", ()):
            yield f"{name}: capabilities"
        if not (context.get("runAsNonRoot", of_pod.get("runAsNonRoot"))):
            yield f"{name}: runAsNonRoot"
        if context.get("runAsUser", of_pod.get("runAsUser")) == 0:
            yield f"{name}: runAsUser 0"
        if (context.get("seccompProfile") or of_pod.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
            yield f"{name}: seccompProfile"
        yield from (f"{name}: hostPort" for port in container.get("ports", ()) if "hostPort" in port)
    for volume in spec.get("volumes", ()):
        yield from (f"volume {volume['name']}: {kind}" for kind in volume.keys() - VOLUMES - {"name"})


def immutable_fields(one: Mapping[str, Any]) -> Any:
    """Return the fields of an object that an API server lets nobody change, or None."""
    match one["kind"]:
        case "Deployment":
            return one["spec"]["selector"]
        case "StatefulSet":
            changeable = {"replicas", "template", "updateStrategy", "minReadySeconds", "revisionHistoryLimit"}
            return {name: value for name, value in one["spec"].items() if name not in changeable}
        case "Job":
            return one["spec"]["template"]
        case "Pod":
            return one["spec"]
        case "RoleBinding":
            return one["roleRef"]
        case "PersistentVolumeClaim":
            return {name: value for name, value in one["spec"].items() if name != "resources"}
        case "Secret":
            return one["type"]
    return None


def key_of(one: Mapping[str, Any]) -> str:
    """Return what identifies an object in a cluster."""
    return f"{one['kind']}/{one['metadata'].get('namespace', '')}/{one['metadata']['name']}"
