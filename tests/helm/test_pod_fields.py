"""Fields that the chart passes to Kubernetes as they are: it refuses what an API server would, and nothing else."""

import json
from typing import Any

import pytest

from tests.support.chart import MATRIX, load_objects, pods_of, template
from tests.support.rendered import wrong_with, wrong_with_pods

LEAST = MATRIX["least"]
KEY = {"secretKeyRef": {"name": "a", "key": "b"}}
SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def render(values: dict[str, Any], *, check: bool = True) -> Any:
    return template(LEAST, *(["--set-json", json.dumps(values)]), check=check)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"extraEnv": [{"name": "A", "value": "b", "valueFrom": KEY}]}, "extraEnv: A has both value and valueFrom"),
        ({"extraEnv": [{"name": "A", "valueFrom": {}}]}, "extraEnv: A has nothing; permitted: a source, such as"),
        ({"extraEnv": [{"name": "A", "value": 5}]}, "/podDefaults/extraEnv/0/value': got number, want string"),
        ({"extraEnv": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a"}}}]}, "missing property 'key'"),
        (
            {"extraEnvFrom": [{"secretRef": {"name": "a"}, "configMapRef": {"name": "a"}}]},
            "podDefaults.extraEnvFrom: an entry has both configMapRef and secretRef; permitted: one",
        ),
        (
            {"extraEnvFrom": [{"prefix": "A"}]},
            "extraEnvFrom: an entry has nothing; permitted: configMapRef or secretRef",
        ),
        ({"extraVolumes": [{"name": "a"}]}, "podDefaults.extraVolumes: a has nothing; permitted: a source, such as"),
        (
            {"extraVolumes": [{"name": "a", "emptyDir": {}, "secret": {"secretName": "b"}}]},
            "podDefaults.extraVolumes: a has both emptyDir and secret; permitted: one",
        ),
        ({"extraVolumes": [{"name": "A", "emptyDir": {}}]}, "/extraVolumes/0/name': 'A' does not match"),
        ({"extraVolumes": [{"name": "a", "emptyDir": True}]}, "/extraVolumes/0/emptyDir': got boolean, want object"),
        ({"extraVolumeMounts": [{"name": "tmp", "mountPath": "a"}]}, "/extraVolumeMounts/0/mountPath': 'a' does not"),
        (
            {"extraVolumeMounts": [{"name": "tmp", "mountPath": "/a", "readOnly": "true"}]},
            "/extraVolumeMounts/0/readOnly': got string, want boolean",
        ),
        ({"sidecars": [{"name": "a", "image": "b", "args": [1]}]}, "/sidecars/0/args/0': got number, want string"),
        ({"sidecars": [{"name": "A b", "image": "b"}]}, "/sidecars/0/name': 'A b' does not match"),
        ({"dnsPolicy": "None"}, "podDefaults: dnsPolicy None needs dnsConfig.nameservers, which is empty"),
        ({"dnsConfig": {"options": [{"name": "ndots", "value": 2}]}}, "/options/0/value': got number, want string"),
        ({"hostAliases": [{"hostnames": ["a"]}]}, "/hostAliases/0': missing property 'ip'"),
        ({"topologySpreadConstraints": [{"topologyKey": "a"}]}, "missing properties 'maxSkew', 'whenUnsatisfiable'"),
        ({"affinity": {"podAntiAffinity": {PREFERRED: [{"topologyKey": "a"}]}}}, "missing properties 'weight'"),
        ({"affinity": {"nodeAffinity": {PREFERRED: {"weight": 1}}}}, "got object, want array"),
    ],
)
def test_what_no_pod_may_have_is_refused(given: dict[str, Any], message: str) -> None:
    done = render({"podDefaults": given}, check=False)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"podSecurityContext": {"runAsUser": "1000"}}, "/podSecurityContext/runAsUser': got string"),
        ({"podSecurityContext": {"seccompProfile": "RuntimeDefault"}}, "/seccompProfile': got string"),
        ({"containerSecurityContext": {"capabilities": ["ALL"]}}, "/capabilities': got array, want object"),
        ({"networkPolicy": {"database": {"to": [{"ipBlock": {"cidr": "10.0.0.1"}}]}}}, "/ipBlock/cidr': '10.0.0.1'"),
        (
            {"dispatcher": {"resources": {"limits": {"memroy": "1Gi"}}}},
            "dispatcher.resources: limits.memroy is no resource of Kubernetes; permitted: cpu, memory",
        ),
        ({"exporter": {"resources": {"limits": {"memory": "512m"}}}}, "exporter.resources: limits.memory 512m is less"),
        ({"workerDefaults": {"resources": {"limits": {"memory": 12}}}}, "limits.memory 12 is less than 1Mi"),
        ({"retention": {"schedule": "0 24 * * *"}}, 'retention.schedule: "0 24 * * *" is not a cron schedule, because'),
        ({"retention": {"schedule": "0 3 * * 7"}}, 'because "7" is no weekday'),
        ({"retention": {"schedule": "30-08 3 * * *"}}, 'because "30-08" is no minute'),
        ({"retention": {"schedule": "0 3 * nov-FEB *"}}, 'because "nov-FEB" is no month'),
        ({"retention": {"schedule": "0 3 * * 0-1,fri-mon"}}, 'because "0-1,fri-mon" is no weekday'),
        (
            {"workerDefaults": {"cache": {"warm": {"schedule": "*/0 * * * *"}}}},
            'workerPools.default.cache.warm.schedule: "*/0 * * * *" is not a cron schedule, because "*/0" is no minute',
        ),
        (
            {"database": {"keys": {"migrator": "uri", "worker": "uri"}}},
            'database.keys: migrator and worker are both "uri", and migration.logins true would limit',
        ),
        (
            {"devServices": {"enabled": True}, "database": {"keys": {"observer": "uri", "worker": "uri"}}},
            'database.keys: observer and worker are both "uri"; permitted with devServices.enabled: a key for each',
        ),
        ({"proxy": {"https": "http://"}}, "/proxy/https'"),
    ],
)
def test_other_values_with_which_no_pod_would_run_are_refused(given: dict[str, Any], message: str) -> None:
    done = render(given, check=False)
    assert done.returncode != 0
    assert message in done.stderr


TERM = {"topologyKey": "zone", "labelSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}


@pytest.mark.parametrize(
    "given",
    [
        {"extraEnv": [{"name": "A"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]},
        {"extraEnvFrom": [{"prefix": "A_", "secretRef": {"name": "a", "optional": True}}]},
        {
            "extraVolumes": [{"name": "a", "csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": True}}],
            "extraVolumeMounts": [{"name": "a", "mountPath": "/a", "subPathExpr": "$(A)", "readOnly": True}],
        },
        {
            "sidecars": [
                {
                    "name": "a",
                    "image": "b",
                    "ports": [{"containerPort": 5432, "name": "pg"}],
                    "startupProbe": {"tcpSocket": {"port": "pg"}},
                    "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                    "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}},
                }
            ]
        },
        {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["fd00::10"], "options": [{"name": "ndots", "value": "2"}]}},
        {"hostAliases": [{"ip": "fd00::7", "hostnames": ["postgres"]}]},
        {"affinity": {"podAntiAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": TERM}]}}},
        {"topologySpreadConstraints": [{**SPREAD, "matchLabelKeys": ["pod-template-hash"], "minDomains": 2}]},
    ],
)
def test_what_a_pod_may_have_is_rendered(given: dict[str, Any]) -> None:
    objects = load_objects(render({"podDefaults": given}).stdout)
    assert [line for one in objects for line in wrong_with(one)] == []
    assert wrong_with_pods(objects) == []


@pytest.mark.parametrize("schedule", ["@daily", "@every 1h30m", "0-30/5 08-9 1,15 jan-mar MON-fri", "05 4 ? * 0"])
def test_schedules_of_kubernetes_are_accepted(schedule: str) -> None:
    assert f'schedule: "{schedule}"' in render({"retention": {"schedule": schedule}}).stdout


def test_a_spread_constraint_counts_the_pods_of_its_component() -> None:
    """Without a selector it would count none."""
    for pod in pods_of(load_objects(render({"podDefaults": {"topologySpreadConstraints": [SPREAD]}}).stdout)):
        (constraint,) = pod.spec["topologySpreadConstraints"]
        selector = constraint["labelSelector"]["matchLabels"]
        assert selector.items() <= pod.metadata["labels"].items()
        assert selector["app.kubernetes.io/component"] == pod.component
        assert ("darkroom/pool" in selector) == (pod.component == "worker")
    own = {**SPREAD, "labelSelector": {"matchLabels": {"a": "b"}}}
    for pod in pods_of(load_objects(render({"podDefaults": {"topologySpreadConstraints": [own]}}).stdout)):
        assert pod.spec["topologySpreadConstraints"] == [own]


def test_the_registry_of_all_images_replaces_that_of_each() -> None:
    images = {"postgres": "r.example.com/a/postgres:18", "valkey": "localhost:5000/valkey:8", "seaweedfs": "weed:4"}
    values = {"devServices": {"enabled": True, **{name: {"image": image} for name, image in images.items()}}}
    done = render({**values, "global": {"imageRegistry": "mirror:5000/x"}})
    found = {one["image"] for pod in pods_of(load_objects(done.stdout)) for one in pod.containers}
    assert {"mirror:5000/x/a/postgres:18", "mirror:5000/x/valkey:8", "mirror:5000/x/weed:4"} <= found
