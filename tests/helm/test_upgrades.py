"""What is installed can be upgraded, and what the cluster already has is taken into account."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.api_server import immutable_fields, key_of
from tests.support.chart import CHART, MATRIX, NAMESPACE, helm, load_objects, objects

# The immutable fields of every object but Jobs and test pods, as the chart before this version rendered them.
INSTALLED = json.loads(Path(__file__).with_name("installed.json").read_text())
# A binding's role is immutable, so its name now changes with the role.
REPLACED = {"RoleBinding/pictures/pictures-darkroom-pipelines", "RoleBinding/pictures/pictures-of-a-team-pipelines"}


@pytest.mark.parametrize("name", MATRIX)
def test_an_upgrade_from_the_chart_before_changes_nothing_immutable(name: str) -> None:
    now = {key_of(one): immutable_fields(one) for one in objects(name, upgrade=True)}
    gone = INSTALLED[name].keys() - now.keys() - REPLACED
    # These name pools of their own, and the chart before added one that they did not ask for.
    unasked = (
        {f"Deployment/{NAMESPACE}/pictures-darkroom-worker-default"} if name in ("aws", "gcp", "on-prem") else set()
    )
    assert gone == unasked
    for key in INSTALLED[name].keys() & now.keys():
        assert now[key] == INSTALLED[name][key], key


KINDS = {
    "v1": ["Secret", "ServiceAccount", "ConfigMap", "Service", "Pod"],
    "apps/v1": ["Deployment", "StatefulSet"],
    "batch/v1": ["Job", "CronJob"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "keda.sh/v1alpha1": ["ScaledObject", "TriggerAuthentication"],
}


def plural(kind: str) -> str:
    return "networkpolicies" if kind == "NetworkPolicy" else f"{kind.lower()}s"


@dataclass
class Cluster:
    """An API server that has some objects, by path, and knows which kinds there are."""

    objects: dict[str, Any] = field(default_factory=dict)
    kubeconfig: Path = Path()

    def add(self, one: dict[str, Any]) -> None:
        api = next(version for version, kinds in KINDS.items() if one["kind"] in kinds)
        prefix = "/api/v1" if api == "v1" else f"/apis/{api}"
        path = f"{prefix}/namespaces/{NAMESPACE}/{plural(one['kind'])}/{one['metadata']['name']}"
        self.objects[path] = {"apiVersion": api, **one}

    def find(self, path: str) -> Any:
        groups = []
        for version, kinds in KINDS.items():
            if path in (f"/api/{version}", f"/apis/{version}"):
                listed = [{"name": plural(kind), "kind": kind, "namespaced": True, "verbs": ["get"]} for kind in kinds]
                return {"kind": "APIResourceList", "groupVersion": version, "resources": listed}
            if "/" in version:
                name, short = version.split("/")
                groups.append({"name": name, "versions": [{"groupVersion": version, "version": short}]})
        known = {
            "/version": {"major": "1", "minor": "36", "gitVersion": "v1.36.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "groups": groups},
        }
        return known.get(path) or self.objects.get(path)

    def template(self, *more: str, upgrade: bool = True, check: bool = True) -> Any:
        chosen = [word for file in MATRIX["least"] for word in ("--values", str(CHART / file))]
        mode = ["--is-upgrade"] if upgrade else []
        return helm("template", "pictures", str(CHART), "--namespace", NAMESPACE, *chosen, *more, *mode,
                    "--dry-run=server", "--disable-openapi-validation", "--kubeconfig", str(self.kubeconfig),
                    check=check)  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(kubeconfig=tmp_path / "kubeconfig")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = found.find(self.path.partition("?")[0])
            body = json.dumps(document or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                                           "reason": "NotFound", "message": "not found"}).encode()  # fmt: skip
            self.send_response(200 if document else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
    }  # fmt: skip
    found.kubeconfig.write_text(yaml.safe_dump(config))
    yield found
    server.shutdown()
    server.server_close()


def deployment(replicas: int, *managers: tuple[str, str, bool]) -> dict[str, Any]:
    """Return a pool's Deployment with the fields of each (manager, operation, whether it has set the replicas)."""
    fields = [{"manager": manager, "operation": operation, "fieldsV1": {"f:spec": {"f:replicas": {}} if sets else {}}}
              for manager, operation, sets in managers]  # fmt: skip
    metadata = {"name": "pictures-darkroom-worker-default", "namespace": NAMESPACE, "managedFields": fields}
    return {"kind": "Deployment", "metadata": metadata, "spec": {"replicas": replicas}}


@pytest.mark.parametrize(
    ("live", "replicas"),
    [
        (None, None),
        # Server-side apply: a field that Helm alone has set would be removed, and fall to its default of one.
        (deployment(4, ("helm", "Apply", True)), 4),
        (deployment(7, ("helm", "Apply", False), ("kube-controller-manager", "Update", True)), None),
        # Client-side apply (Helm 3) deletes a field that an earlier manifest had, whoever has set it since.
        (deployment(7, ("helm", "Update", False), ("kube-controller-manager", "Update", True)), 7),
    ],
)
def test_a_pool_that_becomes_autoscaled_keeps_its_pods(cluster: Cluster, live: Any, replicas: int | None) -> None:
    if live:
        cluster.add(live)
    done = cluster.template("--set", "workerDefaults.autoscaling.enabled=true,checkSecrets=false")
    (pool,) = (one for one in load_objects(done.stdout)
               if key_of(one) == f"Deployment/{NAMESPACE}/pictures-darkroom-worker-default")  # fmt: skip
    assert pool["spec"].get("replicas") == replicas


ROLES = ("migrator", "dispatcher", "worker", "pruner", "observer", "publisher", "submitter")


def secret(name: str, *keys: str) -> dict[str, Any]:
    return {"kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "data": dict.fromkeys(keys, "YQ==")}


def test_missing_secrets_and_keys_are_refused_by_name(cluster: Cluster) -> None:
    cluster.add({"kind": "ServiceAccount", "metadata": {"name": "default"}})
    cluster.add(secret("darkroom-database", *ROLES[:-1], "other"))
    done = cluster.template(upgrade=False, check=False)
    assert done.returncode != 0
    assert ('database.existingSecret: Secret "darkroom-database" has no key "submitter"; it has dispatcher, migrator, '
            "observer, other, pruner, publisher, worker\n") in done.stderr  # fmt: skip
    assert f'broker.existingSecret: there is no Secret "darkroom-broker" in namespace "{NAMESPACE}"' in done.stderr
    cluster.template("--set", "checkSecrets=false", upgrade=False)
    cluster.add(secret("darkroom-database", *ROLES))
    cluster.add(secret("darkroom-broker", "url"))
    cluster.template(upgrade=False)


def test_a_url_that_keda_cannot_read_is_refused(cluster: Cluster) -> None:
    """A file that an editor wrote ends with a line feed, which Darkroom removes and KEDA does not."""
    cluster.add({"kind": "ServiceAccount", "metadata": {"name": "default"}})
    cluster.add(secret("darkroom-broker", "url"))
    of_database = secret("darkroom-database", *ROLES)
    of_database["data"]["observer"] = base64.b64encode(b"postgresql://a:b@c/d\n").decode()
    cluster.add(of_database)
    cluster.template(upgrade=False)
    scaled = ("--set", "workerDefaults.autoscaling.enabled=true")
    done = cluster.template(*scaled, upgrade=False, check=False)
    assert done.returncode != 0
    assert 'key "observer" of Secret "darkroom-database" begins or ends with a space or a line feed' in done.stderr
    of_database["data"]["keda"] = "YQ=="
    cluster.template(*scaled, "--set", "database.scalerKey=keda", upgrade=False)


def test_what_cannot_change_after_the_installation_is_refused(cluster: Cluster) -> None:
    labels = {"app.kubernetes.io/name": "darkroom", "app.kubernetes.io/component": "dispatcher"}
    cluster.add({"kind": "Deployment", "spec": {"selector": {"matchLabels": labels}},
                                           "metadata": {"name": "p-dispatcher", "namespace": NAMESPACE}})  # fmt: skip
    claim = {"spec": {"resources": {"requests": {"storage": "10Gi"}}}}
    cluster.add({"kind": "StatefulSet", "spec": {"volumeClaimTemplates": [claim]},
                                            "metadata": {"name": "p-postgres", "namespace": NAMESPACE}})  # fmt: skip
    trial = "fullnameOverride=p,devServices.enabled=true,devServices.password=abcdefgh12345678"
    done = cluster.template("--set", f"{trial},nameOverride=other,devServices.postgres.size=20Gi", check=False)
    assert 'the installed pods have the name "darkroom" and cannot change to "other"' in done.stderr
    assert "devServices.postgres.size: the installed volume has 10Gi" in done.stderr
    cluster.template("--set", f"{trial},devServices.postgres.size=10240Mi")
