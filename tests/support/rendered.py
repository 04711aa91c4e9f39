"""What an API server would refuse of the objects that a chart renders: fields, names, labels and references."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import kubernetes_validate

from tests.support.api_server import find_dropped, find_inadmissible, find_repeated, key_of
from tests.support.chart import PodTemplate, pods_of

CUSTOM = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule", "HTTPRoute"}
NOT_RESTRICTED = {"volume releases: hostPath", "volume seed: image"}  # as docs/operations.md says of these values

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # of DNS, as in RFC 1123
SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
KEY = re.compile(r"(?:[a-z0-9][a-z0-9.-]{0,252}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
VALUE = re.compile(r"|[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
# Fields whose value is text wherever they are, also in objects of which no schema is at hand.
TEXT = {
    "name",
    "namespace",
    "key",
    "parameter",
    "claimName",
    "secretName",
    "configMap",
    "value",
    "interval",
    "behavior",
}


def wrong_with(one: dict[str, Any]) -> list[str]:
    """Return what an API server would refuse or drop of an object."""
    if one["kind"] not in CUSTOM:
        try:
            kubernetes_validate.validate(one, "1.36", strict=True)
        except kubernetes_validate.ValidationError as error:
            return [f"{key_of(one)}: {error}"]
    return [f"{key_of(one)}{path}" for path in (*find_dropped(one), *find_repeated(one), *find_misnamed(one))]


def wrong_with_pods(objects: list[dict[str, Any]]) -> list[str]:
    """Return which pods a namespace that enforces the restricted standard refuses, and which mounts have no volume."""
    wrong = []
    for pod in pods_of(objects):
        wrong += [f"{pod.name}: {reason}" for reason in find_inadmissible(pod.spec) if reason not in NOT_RESTRICTED]
        volumes = {one["name"] for one in pod.spec["volumes"]}
        volumes |= {one["metadata"]["name"] for one in pod.owner["spec"].get("volumeClaimTemplates", ())}
        wrong += [f"{pod.name}: no volume {mount['name']}" for one in pod.containers
                  for mount in one.get("volumeMounts", ()) if mount["name"] not in volumes]  # fmt: skip
        names = [one["name"] for one in pod.containers]
        wrong += [f"{pod.name}: two containers {name}" for name in set(names) if names.count(name) > 1]
    return wrong


def find_misnamed(one: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names, labels and annotations of an object, and of what is in it, that an API server refuses."""
    yield from _find_not_text(one, one["kind"])
    permitted = SERVICE if one["kind"] == "Service" else SUBDOMAIN
    if not permitted.fullmatch(str(one["metadata"]["name"])):
        yield f"{one['kind']}: the name {one['metadata']['name']}"
    if one["kind"] == "CronJob" and len(one["metadata"]["name"]) > 52:
        yield f"CronJob: {one['metadata']['name']} is longer than 52"
    for metadata in (one["metadata"], *(pod.metadata for pod in pods_of([dict(one)]))):
        for key, value in metadata.get("labels", {}).items():
            if not KEY.fullmatch(key) or not VALUE.fullmatch(str(value)):
                yield f"{one['kind']}: the label {key}: {value}"
        yield from (f"{one['kind']}: the annotation {key}" for key in metadata.get("annotations", {})
                    if not KEY.fullmatch(key))  # fmt: skip
    for pod in pods_of([dict(one)]):
        parts = [part["name"] for part in (*pod.containers, *pod.spec["volumes"])]
        ports = [port["name"] for part in pod.containers for port in part.get("ports", ())]
        yield from (f"{pod.name}: the name {name}" for name in parts if not LABEL.fullmatch(str(name)))
        yield from (f"{pod.name}: the port {name}" for name in ports if not LABEL.fullmatch(name) or len(name) > 15)


def _find_not_text(value: Any, path: str) -> Iterator[str]:
    match value:
        case dict():
            for key, part in value.items():
                if not isinstance(key, str):
                    yield f"{path}: the key {key!r}"
                is_map = path.endswith((".labels", ".annotations", ".matchLabels", ".nodeSelector"))
                if (is_map or key in TEXT) and not isinstance(part, str | dict):
                    yield f"{path}.{key}: {part!r} is no text"
                yield from _find_not_text(part, f"{path}.{key}")
        case list():
            for number, part in enumerate(value):
                yield from _find_not_text(part, f"{path}[{number}]")


def find_unconnected(objects: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the selectors that match no pod, and the ports of Services, policies and probes that no container has."""
    found = list(pods_of(objects))
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet", "Service", "PodDisruptionBudget"):
            selector = one["spec"]["selector"]
            chosen = list(_choose(selector.get("matchLabels", selector), found))
            if len(chosen) != 1:
                yield f"{one['kind']} {one['metadata']['name']}: selects {[pod.name for pod in chosen]}"
            for port in one["spec"].get("ports", ()):
                if port["targetPort"] not in _ports(chosen):
                    yield f"Service {one['metadata']['name']}: no port {port['targetPort']}"
        if one["kind"] == "NetworkPolicy":
            chosen = list(_choose(one["spec"]["podSelector"]["matchLabels"], found))
            named = {port["port"] for rule in one["spec"].get("ingress", ()) for port in rule["ports"]}
            if chosen and not named <= _ports(chosen):
                yield f"NetworkPolicy {one['metadata']['name']}: no port {named - _ports(chosen)}"
    for pod in found:
        for container in pod.containers:
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                for how in ("httpGet", "tcpSocket"):
                    if how in container.get(probe, {}) and container[probe][how]["port"] not in ports:
                        yield f"{pod.name}: {probe} of {container['name']} asks a port that it has not"


def _choose(labels: Mapping[str, str], found: list[PodTemplate]) -> Iterator[PodTemplate]:
    return (pod for pod in found if labels.items() <= pod.metadata["labels"].items())


def _ports(found: list[PodTemplate]) -> set[str]:
    return {port["name"] for pod in found for part in pod.containers for port in part.get("ports", ())}
