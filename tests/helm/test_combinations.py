"""Many combinations of values: an API server keeps every field, admits every pod and can update every object."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.api_server import find_dropped, find_inadmissible, find_repeated, immutable_fields, key_of
from tests.support.chart import MATRIX, load_objects, objects, pods_of, template

COMBINATIONS = yaml.safe_load(Path(__file__).with_name("combinations.yaml").read_text())
CUSTOM = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"}
each = pytest.mark.parametrize("name", COMBINATIONS)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("values")

    def render(name: str) -> list[dict[str, Any]]:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(COMBINATIONS[name]))
        return load_objects(template([*MATRIX["least"], str(folder / f"{name}.yaml")]).stdout)

    with ThreadPoolExecutor(2) as threads:
        return dict(zip(COMBINATIONS, threads.map(render, COMBINATIONS), strict=True))


Rendered = dict[str, list[dict[str, Any]]]


def test_there_are_many() -> None:
    assert len(COMBINATIONS) >= 40


@each
def test_an_api_server_keeps_every_field(rendered: Rendered, name: str) -> None:
    for one in rendered[name]:
        assert [*find_dropped(one), *find_repeated(one)] == [], key_of(one)
        is_new = name == "nothing" or one not in rendered["nothing"]
        if one["kind"] not in CUSTOM and is_new:
            kubernetes_validate.validate(one, "1.36", strict=True)


@pytest.mark.parametrize("name", MATRIX)
def test_an_api_server_keeps_every_field_of_the_examples(name: str) -> None:
    for one in objects(name):
        assert [*find_dropped(one), *find_repeated(one)] == [], key_of(one)


@each
def test_a_namespace_that_enforces_the_restricted_standard_admits_every_pod(rendered: Rendered, name: str) -> None:
    for pod in pods_of(rendered[name]):
        assert list(find_inadmissible(pod.spec)) == [], pod.name


@each
def test_every_mount_has_its_volume_and_every_account_exists(rendered: Rendered, name: str) -> None:
    accounts = {one["metadata"]["name"] for one in rendered[name] if one["kind"] == "ServiceAccount"}
    for pod in pods_of(rendered[name]):
        claims = [one["metadata"]["name"] for one in pod.owner["spec"].get("volumeClaimTemplates", ())]
        volumes = {one["name"] for one in pod.spec["volumes"]} | set(claims)
        mounted = {mount["name"] for one in pod.containers for mount in one.get("volumeMounts", ())}
        assert mounted == volumes, pod.name
        assert pod.spec.get("serviceAccountName") in accounts | {None, "here-already"}


@each
def test_no_value_changes_what_cannot_be_changed(rendered: Rendered, name: str) -> None:
    """An object that keeps its name keeps its immutable fields, so that an upgrade to these values is accepted."""
    installed = {key_of(one): immutable_fields(one) for one in rendered["nothing"] + rendered["trial"]}
    for one in rendered[name]:
        if '"helm.sh/hook": "test"' not in json.dumps(one["metadata"]):
            assert immutable_fields(one) == installed.get(key_of(one), immutable_fields(one)), key_of(one)


def test_a_test_pod_that_changes_has_another_name(rendered: Rendered) -> None:
    """So that who applies the output of `helm template` can apply it again."""
    by_name: dict[str, Any] = {}
    for found in rendered.values():
        for one in found:
            if one["kind"] == "Pod":
                assert by_name.setdefault(one["metadata"]["name"], one["spec"]) == one["spec"]
    assert len(by_name) > 10


FIELDS = {
    "env-everywhere": lambda pod: all({"A", "B"} <= {one["name"] for one in c["env"]} for c in pod.containers),
    "volumes-everywhere": lambda pod: all("/more" in str(c["volumeMounts"]) for c in pod.containers),
    "ca-in-a-config-map": lambda pod: all("SSL_CERT_FILE" in str(c["env"]) for c in pod.containers),
    "ca-in-a-secret": lambda pod: all("/etc/darkroom/ca/root.pem" in str(c["env"]) for c in pod.containers),
    "proxy": lambda pod: all("HTTPS_PROXY" in str(c["env"]) for c in pod.containers),
    "sidecars-everywhere": lambda pod: (
        pod.containers[0]["name"] == "cloud-sql-proxy" and pod.containers[0]["restartPolicy"] == "Always"
    ),
    "init-containers-everywhere": lambda pod: pod.containers[0]["name"] == "first",
    "scheduling-everywhere": lambda pod: pod.spec["schedulerName"] == "other" and "hostAliases" in pod.spec,
    "labels-everywhere": lambda pod: pod.metadata["labels"]["c"] == "d" and pod.metadata["annotations"]["e"] == "f",
    "registry": lambda pod: {"name": "b"} in pod.spec["imagePullSecrets"],
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_every_pod_reaches_every_pod(rendered: Rendered, name: str) -> None:
    """Migration, retention and tests are pods too."""
    found = list(pods_of(rendered[name]))
    assert {pod.component for pod in found} >= {"dispatcher", "exporter", "migration", "retention", "test", "worker"}
    assert [pod.name for pod in found if not FIELDS[name](pod)] == []


def test_a_component_replaces_or_adds_to_what_every_pod_has(rendered: Rendered) -> None:
    def worker(name: str) -> Any:
        return next(pod for pod in pods_of(rendered[name]) if pod.component == "worker")

    assert {"name": "A", "value": "own"} in worker("env-everywhere").main["env"]
    assert "nodeSelector" not in worker("scheduling-everywhere").spec
    assert worker("scheduling-everywhere").spec["runtimeClassName"] == "nvidia"
    assert worker("product").spec["nodeSelector"] == {"zone": "a", "nvidia.com/gpu.product": "NVIDIA-L4"}
    labels = {pod.component for pod in pods_of(rendered["labels-everywhere"])}
    assert "mine" not in labels, "a label of the selector cannot be replaced"
    images = {pod.name: pod.main["image"] for pod in pods_of(rendered["image-per-pool"]) if pod.component == "worker"}
    assert images["Deployment/pictures-darkroom-worker-default"] == "darkroom:special"
    assert images["Deployment/pictures-darkroom-worker-b"].startswith("r.example.com/own/darkroom@sha256:1")
    (dispatcher,) = (pod for pod in pods_of(rendered["image-per-component"]) if pod.component == "dispatcher")
    assert {one["image"] for one in dispatcher.containers} == {"darkroom-slim:b"}


def test_a_worker_with_a_gpu_does_not_serve_on_the_cpu(rendered: Rendered) -> None:
    def device(name: str) -> Any:
        (pod,) = (one for one in pods_of(rendered[name]) if one.component == "worker")
        return next(one["value"] for one in pod.main["env"] if one["name"] == "DARKROOM_DEVICE")

    assert [device(name) for name in ("nothing", "mig", "dra", "no-gpu")] == ["cuda", "cuda", "cuda", "auto"]


def test_a_paused_pool_has_no_pods_with_and_without_an_autoscaler(rendered: Rendered) -> None:
    (fixed,) = (one for one in rendered["paused"] if one["metadata"]["name"].endswith("worker-default")
                and one["kind"] == "Deployment")  # fmt: skip
    assert fixed["spec"]["replicas"] == 0
    (scaled,) = (one for one in rendered["paused-autoscaled"] if one["kind"] == "ScaledObject")
    assert scaled["metadata"]["annotations"]["autoscaling.keda.sh/paused-replicas"] == "0"


def test_pods_with_a_role_of_their_own_reach_who_gives_them_credentials(rendered: Rendered) -> None:
    for name, address in (("nothing", "169.254.170.23/32"), ("gke-identity", "169.254.169.252/32")):
        policies = [one for one in rendered[name] if one["kind"] == "NetworkPolicy"]
        reached = {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in policies if address in str(one)}
        assert reached == {"dispatcher", "exporter", "migration", "retention", "test", "worker"}


def test_a_claim_is_filled_where_the_workers_look(rendered: Rendered) -> None:
    found = {pod.component: pod for pod in pods_of(rendered["cache-that-is-warmed"])}
    for component in ("warm", "worker"):
        variables = {one["name"]: one.get("value") for one in found[component].main["env"]}
        mounts = {one["mountPath"]: one["name"] for one in found[component].main["volumeMounts"]}
        volumes = {one["name"]: one for one in found[component].spec["volumes"]}
        assert variables["DARKROOM_CACHE_DIR"] == "/cache/releases"
        assert volumes[mounts["/cache/releases"]]["persistentVolumeClaim"] == {"claimName": "releases"}
    assert found["warm"].main["args"] == ["releases", "warm", "--alias", "production"]
    assert found["warm"].spec["serviceAccountName"] == found["worker"].spec["serviceAccountName"]


def test_releases_in_an_image_are_read_from_its_volume() -> None:
    """Not among the combinations: older API servers, and the restricted standard, do not know this kind of volume."""
    done = template(MATRIX["least"], "--set", "workerDefaults.cache.image.reference=r.example.com/releases:1")
    (worker,) = (pod for pod in pods_of(load_objects(done.stdout)) if pod.component == "worker")
    image = {"reference": "r.example.com/releases:1", "pullPolicy": "IfNotPresent"}
    assert {"name": "seed", "image": image} in worker.spec["volumes"]
    assert {"name": "seed", "mountPath": "/seed", "readOnly": True} in worker.main["volumeMounts"]
    assert {"name": "DARKROOM_CACHE_SEED", "value": "/seed"} in worker.main["env"]


def test_only_workers_that_annotate_their_pods_have_a_token(rendered: Rendered) -> None:
    found = rendered["idle-pods-first"]
    with_token = [pod.name for pod in pods_of(found) if "serviceAccountToken" in str(pod.spec)]
    assert with_token == ["Deployment/pictures-darkroom-worker-default"]
    (binding,) = (one for one in found if one["kind"] == "RoleBinding")
    assert [one["name"] for one in binding["subjects"]] == ["pictures-darkroom-worker-default"]
    (role,) = (one for one in found if one["kind"] == "Role")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]
    assert not any(one["kind"] == "Role" for one in rendered["nothing"])


def test_a_proxy_can_be_reached(rendered: Rendered) -> None:
    for name, port in (("proxy", 3128), ("proxy-without-a-port", 443)):
        for one in rendered[name]:
            if one["kind"] == "NetworkPolicy":
                assert {"ports": [{"port": port, "protocol": "TCP"}]} in one["spec"]["egress"]


def test_the_console_alone_reaches_the_provider_at_which_people_sign_in(rendered: Rendered) -> None:
    rule = {"ports": [{"port": 8443, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]}
    policies = [one for one in rendered["console-with-a-provider"] if one["kind"] == "NetworkPolicy"]
    assert [one["metadata"]["name"] for one in policies if rule in one["spec"]["egress"]] == [
        "pictures-darkroom-console"
    ]


def test_switching_off_every_alert_leaves_no_empty_group() -> None:
    """An API server refuses a group whose rules are null."""
    rules = next(one for one in objects("aws") if one["kind"] == "PrometheusRule")
    alerts = [rule["alert"] for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    done = template(MATRIX["aws"], "--set", f"metrics.rules.disabled={{{','.join(alerts)}}}")
    (left,) = (one for one in load_objects(done.stdout) if one["kind"] == "PrometheusRule")
    assert list(find_dropped(left)) == []
    assert 0 < len(left["spec"]["groups"]) < len(rules["spec"]["groups"])
