"""Random values of the chart that its schema permits, for every value that it knows."""

import json
import random
from collections.abc import Iterator
from typing import Any

from tests.support.chart import CHART

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
POOLS = ("default", "second")
LABELS = {"team": "pictures", "example.com/on": "true", "empty": "", "number": "1e3"}
CONTAINER = {
    "name": "proxy",
    "image": "r.example.com/proxy:1",
    "args": ["--port=5432"],
    "env": [{"name": "A", "value": "b"}],
}
SELECTOR = {"labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": "kubernetes.io/hostname"}
PEERS = [
    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
    {"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {}},
]
# Whole fields, by the definition of the schema that describes them.
BY_DEFINITION: dict[str, list[Any]] = {
    "affinity": [{"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [SELECTOR]}}],
    "containers": [[CONTAINER], [], [{**CONTAINER, "securityContext": {"readOnlyRootFilesystem": False}}]],
    "containerSecurityContext": [{"readOnlyRootFilesystem": False}, {"runAsUser": 1000}],
    "dnsConfig": [{"nameservers": ["10.0.0.10"], "options": [{"name": "ndots", "value": "2"}]}],
    "env": [
        [{"name": "MORE", "value": ""}],
        [{"name": "MORE", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
    ],
    "envFrom": [[{"secretRef": {"name": "more"}}, {"configMapRef": {"name": "more"}, "prefix": "P_"}]],
    "hostAliases": [[{"ip": "10.0.0.7", "hostnames": ["postgres.internal"]}]],
    "name": ["some-name", "123", ""],
    "peers": [PEERS, []],
    "podSecurityContext": [{"fsGroup": 1000, "supplementalGroups": [7]}, {"runAsUser": 1000, "runAsGroup": 1000}],
    "profile": [
        {"cpu": "500m", "memory": "1Gi", "env": {"A": "b"}},
        {
            "accelerator": "nvidia.com/gpu",
            "count": 8,
            "trainJob": True,
            "nodes": 2,
            "tolerations": [{"operator": "Exists"}],
        },
    ],
    "quantity": ["512Mi", "1Gi"],
    "queue": ["slow"],
    "resources": [
        {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        {"limits": {"cpu": 2, "memory": "20Gi", "ephemeral-storage": "200Gi"}},
        {},
    ],
    "strings": [{"A": "b"}, {}],
    "labels": [LABELS, {}],
    "annotations": [{"example.com/on": "true", "a": "1e3", "b": "null", "c": "", "d": "a: b"}, {}],
    "toleration": [{"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 60}],
    "topologySpreadConstraints": [[{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", **SELECTOR}]],
    "volumeMounts": [[]],
    "volumes": [[{"name": "more", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]],
}
# Values of text that is not a name, and whose kind the schema does not tell, by the end of their path.
BY_PATH: dict[str, list[Any]] = {
    "extraInitContainers": [[{**CONTAINER, "name": "first"}], []],
    "gpu.product": ["NVIDIA-L4", ""],
    "image.reference": ["r.example.com/releases:1", ""],
    "nameOverride": ["dark"],
    "proxy.noProxy": [".svc", ""],
    "postgres.image": ["postgres:18"],
    "seaweedfs.image": ["seaweedfs:4"],
    "valkey.image": ["valkey:8"],
    "migration.attempt": ["again", 7, ""],
    "secretsVersion": [3, "b"],
    "objectStore.bucket": ["a-bucket"],
    "objectStore.endpointUrl": ["https://s3.example.com", "", "http://s3:8333"],
    "rules.disabled": [["DarkroomWorkLost"], []],
    "console.operators": [["platform"], []],
    "console.oidc.issuer": [""],
    "console.oidc.clientId": [""],
    "console.oidc.existingSecret": [""],
    "console.oidc.tenantClaim": [""],
    "console.oidc.scopes": [["openid", "groups"]],
    "console.oidc.userClaim": ["email"],
    "console.oidc.groupsClaim": ["realm_access.roles"],
    "console.proxy.networks": [["10.0.0.0/8", "fd00::/8"]],
    "console.proxy.userHeader": ["X-User"],
    "console.proxy.groupsHeader": ["X-Groups", ""],
    "console.tenants": [{"*": "default"}],
    "devServices.password": ["abcdefgh12345678"],
    "cache.hostPath": ["/var/cache/darkroom", ""],
    "gpu.resource": ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb"],
    "podMonitor.interval": ["30s"],
    "schedule": ["0 4 * * 0"],
    "training.namespace": ["runs", ""],
    "proxy.http": ["http://proxy:3128", ""],
    "proxy.https": ["http://proxy:3128", "https://proxy", ""],
    "digest": [f"sha256:{7:064}", ""],
    "registry": ["r.example.com:5000", ""],
    "imageRegistry": ["r.example.com", ""],
    "extraObjects": [[{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}, "data": {"a": "b"}}], []],
    "rollout.maxSurge": [1, "25%", 0],
    "rollout.maxUnavailable": [1, "25%", 0],
    "workerPools": [{}],
    "extraEgress": [[{"to": PEERS, "ports": [{"port": 53, "protocol": "UDP"}]}], []],
    "parentRefs": [[{"name": "public", "namespace": "gateways"}], []],
    "training.profiles": [{"large": profile} for profile in BY_DEFINITION["profile"]],
    # These seldom contradict each other: what the chart refuses is tested elsewhere.
    "autoscaling.minReplicas": [0, 2],
    "autoscaling.maxReplicas": [5, 1000],
    "autoscaling.weight": [0],
    "fallback.replicas": [0, 3],
    "cache.sizeGb": [1, 90],
    "claimTemplate": ["", "", "a-gpu"],
    "existingClaim": ["", "", "releases"],
    "warm.alias": ["", "", "production"],
    "workerDefaults.queues": [["default"]],
    "default.queues": [["default"]],
    "second.queues": [["default"]],
    "queues": [["default"]],
    "device": ["auto", "cuda"],
    "settings.staleSeconds": [30, 100],
    "settings.heartbeatSeconds": [5, 0.5],
    "settings.pollSeconds": [1, 0.2],
    "settings.stepLimitSeconds": [300, 30.5],
    "settings.compileLimitSeconds": [900, 60.5],
    "fullnameOverride": ["pictures-of-a-team", ""],
    "preload": [["digits@production", "shapes"], []],
}
WORDS = {"name": "some-name", "word": "other", "text": ""}


def paths(schema: dict[str, Any] | None = None, path: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield every value that the schema knows, those of both pools too: (path, its definition or "", its schema)."""
    schema, definition = SCHEMA if schema is None else schema, ""
    while "$ref" in schema:
        definition = schema["$ref"].rsplit("/", 1)[1]
        schema = SCHEMA["$defs"][definition]
    if "properties" not in schema or definition in BY_DEFINITION:
        yield path, definition, schema
        return
    for name, part in schema["properties"].items():
        yield from paths(part, f"{path}.{name}".lstrip("."))
    if not path:
        for pool in POOLS:
            yield from paths(SCHEMA["$defs"]["pool"], f"workerPools.{pool}")


def choices(path: str, definition: str, schema: dict[str, Any]) -> list[Any]:
    """Return some values that a path may have. Raises LookupError for one of which nothing is known."""
    for known, values in BY_PATH.items():
        if path == known or path.endswith(f".{known}"):
            return values
    if definition in BY_DEFINITION:
        return BY_DEFINITION[definition]
    if "enum" in schema:
        return list(schema["enum"])
    match schema.get("type"):
        case "boolean":
            return [False, True]
        case "integer" | "number":
            least, most = schema.get("minimum", 1), schema.get("maximum", 1500)
            return [value for value in (least, least + 1, 40, 1500) if least <= value <= most]
        case "array" if "$ref" in schema["items"]:
            return [BY_DEFINITION[schema["items"]["$ref"].rsplit("/", 1)[1]]]
        case "array" if schema["items"].get("type") == "integer":
            return [[5432, 6432], [443]]
        case "array" if "pattern" in schema["items"]:
            return [["some-name", "other"]]
        case "string" if "pattern" in schema:
            return ["some-name", "true"] if not path.endswith("tag") else ["v2", ""]
    raise LookupError(f"no value of {path} is known; add one to BY_PATH")


def draw(seed: int) -> dict[str, Any]:
    """Return values of a random part of the paths, over those that install."""
    chance, values = random.Random(seed), dict[str, Any]()
    known = list(paths())
    for path, definition, schema in chance.sample(known, chance.randrange(5, 60)):
        put(values, path, chance.choice(choices(path, definition, schema)))
    return values


def put(values: dict[str, Any], path: str, value: Any) -> None:
    """Set the value of a path."""
    *parents, name = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    if isinstance(value, dict) and isinstance(values.get(name), dict):
        values[name] |= value
    else:
        values[name] = value
