"""Every pod of the chart: its rights, its resources and its end."""

import json
import re
from collections import Counter
from typing import Any

import pytest
import typer

from services import cli
from services.console_settings import ConsoleSettings
from services.settings import Settings
from tests.support.chart import MATRIX, PASSWORD, PodTemplate, objects, of_kind, pods, secret_values

SIDECARS = {"cloud-sql-proxy"}  # of the example for Google Cloud
every = pytest.mark.parametrize("name", MATRIX)
# Volume types that the restricted Pod Security Standard permits.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


@every
def test_pods_meet_the_restricted_standard(name: str) -> None:
    for pod in pods(name):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
        assert pod.spec["securityContext"]["runAsNonRoot"] is True
        assert pod.spec["securityContext"]["runAsUser"] > 0
        assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod.containers:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert not any("hostPort" in port for port in container.get("ports", ()))
        for volume in pod.spec.get("volumes", ()):
            assert set(volume) - {"name"} <= VOLUMES


@every
def test_no_pod_has_a_token(name: str) -> None:
    for pod in pods(name):
        assert pod.spec["automountServiceAccountToken"] is False
    for account in of_kind(name, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@every
def test_names_within_a_pod_are_unique_and_resolve(name: str) -> None:
    for pod in pods(name):
        claims = [one["metadata"]["name"] for one in pod.owner["spec"].get("volumeClaimTemplates", ())]
        volumes = [one["name"] for one in pod.spec.get("volumes", ())] + claims
        assert is_unique(volumes), pod.name
        assert is_unique([one["name"] for one in pod.containers]), pod.name
        mounted = set()
        for container in pod.containers:
            for kind, key in (("env", "name"), ("ports", "name"), ("volumeMounts", "mountPath")):
                assert is_unique([one[key] for one in container.get(kind, ())]), (pod.name, kind)
            mounted |= {one["name"] for one in container.get("volumeMounts", ())}
            ports = {one["name"] for one in container.get("ports", ())}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                for how in ("httpGet", "tcpSocket"):
                    if how in container.get(probe, {}):
                        assert container[probe][how]["port"] in ports
        assert mounted == set(volumes), pod.name


def is_unique(names: list[str]) -> bool:
    return max(Counter(names).values(), default=1) == 1


@every
def test_containers_have_requests_limits_and_a_writable_tmp(name: str) -> None:
    for pod in pods(name):
        for container in pod.containers:
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][kind].keys(), (pod.name, container["name"])
            if container["name"] not in SIDECARS:
                assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"]), pod.name
        for volume in pod.spec.get("volumes", ()):
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], (pod.name, volume)


@every
def test_gpu_requests_equal_limits_and_are_unique(name: str) -> None:
    for pod in pods(name):
        for container in pod.containers:
            gpus = [
                {key: value for key, value in container["resources"][kind].items() if "/" in key}
                for kind in ("requests", "limits")
            ]
            assert gpus[0] == gpus[1]
            assert len(gpus[0]) <= 1
            assert not gpus[0] or container["name"] == "worker"


def test_a_mig_slice_replaces_the_whole_gpu() -> None:
    (preview,) = (pod for pod in pods("gcp") if pod.name.endswith("worker-preview"))
    assert {key for key in preview.main["resources"]["limits"] if "/" in key} == {"nvidia.com/mig-1g.10gb"}


@every
def test_scaled_deployments_set_no_replicas(name: str) -> None:
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(name, "ScaledObject")}
    for one in of_kind(name, "Deployment"):
        assert ("replicas" in one["spec"]) == (one["metadata"]["name"] not in scaled)


@every
def test_a_worker_has_time_to_drain(name: str) -> None:
    for pod in workers(name):
        drain = float(variables(pod)["DARKROOM_DRAIN_S"])
        assert pod.spec["terminationGracePeriodSeconds"] >= 2 * drain + 10  # finish images, then store them
        rollout = pod.owner["spec"]["strategy"]["rollingUpdate"]
        assert rollout["maxSurge"] or rollout["maxUnavailable"]


@every
def test_caches_of_a_worker_are_on_a_writable_volume(name: str) -> None:
    for pod in workers(name):
        mounts = {mount["mountPath"] for mount in pod.main["volumeMounts"]}
        assert {"/tmp", "/cache", "/dev/shm"} <= mounts
        for variable in (
            "DARKROOM_CACHE_DIR",
            "HF_HOME",
            "TRITON_CACHE_DIR",
            "TORCHINDUCTOR_CACHE_DIR",
            "CUDA_CACHE_PATH",
        ):
            assert variables(pod)[variable].startswith("/cache/")


@every
def test_a_worker_starts_as_many_compilers_as_it_has_processors(name: str) -> None:
    """torch counts the cores of the node, and the pod has no memory for so many processes."""
    for pod in workers(name):
        (entry,) = [entry for entry in pod.main["env"] if entry["name"] == "TORCHINDUCTOR_COMPILE_THREADS"]
        limits = pod.main["resources"].get("limits", {})
        expected = "limits.cpu" if "cpu" in limits else "requests.cpu"
        assert entry["valueFrom"]["resourceFieldRef"] == {"resource": expected}


@every
def test_long_running_pods_have_the_three_probes(name: str) -> None:
    paths = {"startupProbe": "/startupz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for pod in pods(name):
        if pod.component in ("dispatcher", "worker", "exporter", "console"):
            assert {probe: pod.main[probe]["httpGet"]["path"] for probe in paths} == paths
            # The budget covers a worker that loads releases before it is ready.
            budget = pod.main["startupProbe"]["failureThreshold"] * pod.main["startupProbe"]["periodSeconds"]
            assert budget >= 60


@every
def test_settings_exist_in_the_code_and_accept_the_values(name: str) -> None:
    for pod in pods(name):
        kind = ConsoleSettings if pod.component == "console" else Settings
        known = {f"DARKROOM_{field.upper()}" for field in kind.model_fields} | {"DARKROOM_LOGINS_DIR"}
        for container in pod.containers:
            given = {one["name"]: one.get("value") for one in container.get("env", ())}
            assert {one for one in given if one.startswith("DARKROOM_")} <= known, pod.name
            plain = {key: value for key, value in given.items() if value is not None and key in known}
            needed = {"s3_bucket": "bucket", "database_url": "postgresql://h/d"}
            fields = {key.removeprefix("DARKROOM_").lower(): value for key, value in plain.items()}
            parsed = {key: json.loads(value) if value.startswith("[") else value for key, value in fields.items()}
            kind(**{**needed, **{key: value for key, value in parsed.items() if key != "logins_dir"}})  # else it raises


@every
def test_processes_serve_where_the_cluster_reaches_them(name: str) -> None:
    """Also if a pod has only an address of IPv6."""
    served = [(one["name"], one["value"]) for pod in pods(name) for container in pod.containers
              for one in container.get("env", ()) if one["name"].endswith("_HOST")]  # fmt: skip
    assert served
    assert {value for _, value in served} == {"::"}


@every
def test_each_command_has_the_settings_it_needs_and_no_other_secret(name: str) -> None:
    store = {"DARKROOM_S3_BUCKET", "DARKROOM_S3_REGION", "DARKROOM_S3_ENDPOINT_URL",
             "DARKROOM_S3_ACCESS_KEY_ID", "DARKROOM_S3_SECRET_ACCESS_KEY"}  # fmt: skip
    for pod in pods(name):
        for container in pod.containers:
            words = container.get("args", [""])
            given = {one["name"] for one in container.get("env", ())}
            if words[0] in ("worker", "dispatcher", "check"):
                assert {"DARKROOM_DATABASE_URL", "DARKROOM_BROKER_URL", "DARKROOM_S3_BUCKET"} <= given, pod.name
            elif words[0] == "prune":
                assert {"DARKROOM_DATABASE_URL", "DARKROOM_S3_BUCKET"} <= given
                assert "DARKROOM_BROKER_URL" not in given
            elif words[0] == "console":
                assert {"DARKROOM_DATABASE_URL", "DARKROOM_S3_BUCKET", "DARKROOM_CONSOLE_SECRET"} <= given
                assert "DARKROOM_BROKER_URL" not in given
            elif words[0] in ("db", "queues", "exporter"):
                assert "DARKROOM_DATABASE_URL" in given
                assert not given & (store | {"DARKROOM_BROKER_URL"}), pod.name


@every
def test_commands_exist_in_the_code(name: str) -> None:
    root = typer.main.get_command(cli.app)
    for pod in pods(name):
        for container in pod.containers:
            if container["image"].split("@")[0].split(":")[0].split("/")[-1] not in ("darkroom", "darkroom-slim"):
                continue
            command: Any = root
            words = list(container["args"])
            while words and hasattr(command, "commands"):
                _, command, words = command.resolve_command(typer.Context(command), words)
            assert not hasattr(command, "commands")
            command.make_parser(typer.Context(command)).parse_args(words)  # raises if the arguments are wrong


@every
def test_passwords_are_only_in_secrets(name: str) -> None:
    for one in objects(name):
        if one["kind"] != "Secret":
            assert PASSWORD not in json.dumps(one)
    passwords = {
        word
        for one in of_kind(name, "Secret")
        for value in secret_values(one)
        for word in re.findall(r"[0-9a-f]{32}", value)
    }
    for one in objects(name):
        if one["kind"] != "Secret":
            assert not [word for word in passwords if word in json.dumps(one)]


@every
def test_each_component_reads_the_password_of_its_own_role(name: str) -> None:
    roles = {"dispatcher": "dispatcher", "worker": "worker", "exporter": "observer", "console": "console",
             "retention": "pruner", "migration": "migrator", "test": "dispatcher"}  # fmt: skip
    for pod in pods(name):
        if pod.component in roles:
            for container in pod.containers:
                if container["name"] not in SIDECARS:
                    assert secret_keys(container)["DARKROOM_DATABASE_URL"] == roles[pod.component]


def test_the_trial_needs_no_gpu() -> None:
    assert not [pod.name for pod in pods("dev") if "nvidia" in json.dumps(pod.spec)]


def secret_keys(container: dict[str, Any]) -> dict[str, str]:
    sources = {one["name"]: one.get("valueFrom", {}) for one in container["env"]}
    return {name: source["secretKeyRef"]["key"] for name, source in sources.items() if "secretKeyRef" in source}


def workers(name: str) -> list[PodTemplate]:
    return [pod for pod in pods(name) if pod.component == "worker"]


def variables(pod: PodTemplate) -> dict[str, str]:
    return {one["name"]: one["value"] for one in pod.main["env"] if "value" in one}


def test_the_console_reads_training_runs_from_a_volume_only_if_one_is_given() -> None:
    (pod,) = [pod for pod in pods("everything") if pod.component == "console"]
    assert {"name": "DARKROOM_CONSOLE_RUNS", "value": "/runs"} in pod.main["env"]
    mount = {"name": "runs", "mountPath": "/runs", "readOnly": True, "subPath": "digits"}
    assert mount in pod.main["volumeMounts"]
    volume = {"name": "runs", "persistentVolumeClaim": {"claimName": "training-runs", "readOnly": True}}
    assert volume in pod.spec["volumes"]
    for name in MATRIX:
        for other in pods(name):
            if (name, other.component) != ("everything", "console"):
                assert not [one for one in other.spec.get("volumes", ()) if one["name"] == "runs"]
