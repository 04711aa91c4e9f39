"""A training stage as a Kubeflow TrainJob: on one node or many, and started again when one of them goes away.

The stage's own pod needs no accelerator. It lays the inputs under a prefix of S3, creates the job, waits, and takes
the result from there. What a node is like stands in a TrainingRuntime that is made of the profile: the fields of a
TrainJob that change a pod have changed with every version of Kubeflow Trainer, a runtime's have not.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_pipelines.profiles import QUEUE_LABEL, Profile
from kfp_pipelines.train_job.exchange import DONE, INPUTS, PREFIX, STAGE, TRAINING, download, upload
from services.settings import load_store
from services.storage.object_store import ObjectStore
from training.errors import DarkroomError

GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
STEP_LABEL = "trainer.kubeflow.org/trainjob-ancestor-step"
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
POLL_S = 10.0
USER = 65532  # of the image
OWN_SETTINGS = ("DARKROOM_S3_BUCKET", "DARKROOM_S3_ENDPOINT_URL", "DARKROOM_S3_REGION")


class TrainJobError(DarkroomError):
    """The job could not be created, or failed; the message has the cluster's own words."""


@dataclass(frozen=True)
class Stage:
    """What the nodes are to do. inputs: fields of the experiment by the folder that they lie in, or a part of it."""

    experiment: str
    overrides: Sequence[str]
    inputs: Mapping[str, str]
    checkpoints: str
    image: str

    @property
    def name(self) -> str:
        """Of the job: equal for equal stages, so that a stage that is tried again finds its job."""
        content = json.dumps([self.experiment, list(self.overrides), dict(self.inputs), self.checkpoints, self.image])
        return f"darkroom-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def run(stage: Stage, profile: Profile, output: Path) -> None:
    """Train on the profile's nodes; `output` is then as if it had been trained here. Raises TrainJobError."""
    settings = load_store()
    store, exchange = ObjectStore.connect(settings), f"{PREFIX}/{stage.name}"
    if store.etag(f"{exchange}/{STAGE}") is None:  # else an earlier try has laid everything there
        placed = {}
        for field, path in stage.inputs.items():
            upload(store, Path(path), f"{exchange}/{INPUTS}/{field}")
            placed[field] = field
        document = {
            "experiment": stage.experiment, "overrides": list(stage.overrides), "inputs": placed,
            "checkpoints": stage.checkpoints,
        }  # fmt: skip
        store.put(f"{exchange}/{STAGE}", json.dumps(document).encode(), content_type="application/json")
    if store.etag(f"{exchange}/{DONE}") is None:
        environment = {name: str(value) for name, value in own_settings(settings).items() if value}
        Jobs(POLL_S).run(stage, profile, store.uri(exchange), environment)
    download(store, f"{exchange}/{TRAINING}", output)
    store.delete(store.keys(f"{exchange}/"))


def own_settings(settings: Any) -> dict[str, Any]:
    """The variables that are no secrets; those come from the profile's."""
    values = settings.s3_bucket, settings.s3_endpoint_url, settings.s3_region
    return dict(zip(OWN_SETTINGS, values, strict=True))


def runtime(name: str, image: str, profile: Profile, environment: Mapping[str, str]) -> dict[str, Any]:
    """The TrainingRuntime of a profile: its nodes, with every secret and volume that the stage asks for."""
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": profile.shm}}]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    for number, (claim, path) in enumerate(profile.pvc.items()):
        volumes.append({"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": f"claim-{number}", "mountPath": path})
    plain = {**profile.env, **environment}
    variables: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in sorted(plain.items())]
    for secret, keys in profile.secrets.items():
        variables += [
            {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
            for key, variable in keys.items()
            if variable not in plain
        ]
    # Of the Pod Security Standard `restricted`, which a namespace may enforce; the group may write to claims.
    confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": profile.nodeSelector,
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in profile.tolerations],
        "volumes": volumes,
        "containers": [
            {"name": "node", "image": image, "env": variables, "volumeMounts": mounts, "securityContext": confined}
        ],
    }
    node = {
        "name": "node",
        "template": {
            "metadata": {"labels": {STEP_LABEL: "trainer"}},
            # A rank that dies takes the others with it: the whole job begins again, from the checkpoint.
            "spec": {"backoffLimit": 0, "template": {"spec": pod}},
        },
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainingRuntime",
        "metadata": {"name": name, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": profile.nodes, "torch": {}},
            "template": {"spec": {"failurePolicy": {"maxRestarts": profile.retries}, "replicatedJobs": [node]}},
        },
    }


def train_job(name: str, image: str, profile: Profile, exchange: str) -> dict[str, Any]:
    """The TrainJob: torchrun on every node of the runtime of the same name."""
    resources: dict[str, Any] = {"cpu": profile.cpu, "memory": profile.memory}
    if profile.count:
        resources[profile.accelerator] = profile.count
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {QUEUE_LABEL: profile.queueName} if profile.queueName else {}},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": name},
            "trainer": {
                "image": image,
                "command": ["torchrun", "-m", "kfp_pipelines.stages.train_node"],
                "args": [exchange],
                "numNodes": profile.nodes,
                "numProcPerNode": ranks(profile),
                "resourcesPerNode": {"requests": resources, "limits": resources},
            },
        },
    }


def ranks(profile: Profile) -> int:
    """Processes of a node: one for each accelerator."""
    return max(1, profile.count)


class Jobs:
    """The cluster's TrainJobs in the namespace of this pod."""

    def __init__(self, poll_s: float) -> None:
        from kubernetes import client, config

        if NAMESPACE.is_file():
            config.load_incluster_config()
            self.namespace = NAMESPACE.read_text().strip()
        else:
            config.load_kube_config()
            self.namespace = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
        self.api, self.refused, self.poll_s = client.CustomObjectsApi(), client.ApiException, poll_s

    def run(self, stage: Stage, profile: Profile, exchange: str, environment: Mapping[str, str]) -> None:
        """Create the job, or find it where an earlier try created it, and wait for its end. Raises TrainJobError."""
        name = stage.name
        try:
            found = self._get("trainjobs", name)
            if found is not None and ended(found) == "Failed":
                self._delete(name)
                found = None
            if found is None:
                self._create("trainingruntimes", runtime(name, stage.image, profile, environment))
                self._create("trainjobs", train_job(name, stage.image, profile, exchange))
            self._wait(name, profile.seconds)
            self._delete(name)
        except self.refused as error:
            reason = json.loads(error.body)["message"] if error.body else error.reason
            raise TrainJobError(f"train job {name}: the cluster refuses it ({error.status}): {reason}") from None

    def _wait(self, name: str, timeout_s: float) -> None:
        deadline, told = time.monotonic() + timeout_s, ""
        while True:
            job = self._get("trainjobs", name)
            if job is None:
                raise TrainJobError(f"train job {name} was deleted")
            if (conditions := shown(job)) != told:
                told = conditions
                print(f"train job {name}: {told or 'created'}", flush=True)
            if ended(job) == "Complete":
                return
            if ended(job) == "Failed":
                raise TrainJobError(f"train job {name} failed: {told}; see: kubectl logs -l jobset.sigs.k8s.io/"
                                    f"jobset-name={name}")  # fmt: skip
            if time.monotonic() > deadline:
                raise TrainJobError(f"train job {name} has not ended within {timeout_s:.0f} s: {told}")
            time.sleep(self.poll_s)

    def _get(self, kind: str, name: str) -> Any:
        try:
            return self.api.get_namespaced_custom_object(GROUP, VERSION, self.namespace, kind, name)
        except self.refused as error:
            if error.status == 404:
                return None
            raise

    def _create(self, kind: str, body: dict[str, Any]) -> None:
        try:
            self.api.create_namespaced_custom_object(GROUP, VERSION, self.namespace, kind, body)
        except self.refused as error:
            if error.status != 409:  # an earlier try got this far
                raise

    def _delete(self, name: str) -> None:
        for kind in ("trainjobs", "trainingruntimes"):
            if self._get(kind, name) is not None:
                self.api.delete_namespaced_custom_object(GROUP, VERSION, self.namespace, kind, name)
        while self._get("trainjobs", name) is not None:  # its pods go first
            time.sleep(self.poll_s)


def ended(job: Mapping[str, Any]) -> str | None:
    """`Complete`, `Failed`, or None while it goes on."""
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return None


def shown(job: Mapping[str, Any]) -> str:
    """What the cluster says of a job."""
    conditions = [one for one in job.get("status", {}).get("conditions", ()) if one["status"] == "True"]
    return ", ".join(f"{one['type']} ({one.get('message') or one.get('reason', '')})" for one in conditions)
