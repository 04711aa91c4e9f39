"""Runs a training stage as a Kubeflow TrainJob, on one or more nodes that restart when one of them is lost.

The stage's own pod needs no accelerator: it uploads the inputs to S3, creates the job, waits, and downloads the result.
The pods are described in a TrainingRuntime made of the profile, because the fields of a TrainJob that change a pod
have changed with every version of Kubeflow Trainer, and those of a runtime have not.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_pipelines.build import USER
from kfp_pipelines.events import Message, Progress, emit
from kfp_pipelines.profiles import QUEUE_LABEL, Profile
from kfp_pipelines.train_job.exchange import DONE, INPUTS, PREFIX, STAGE, TRAINING, download, upload
from kfp_pipelines.train_job.node_logs import last_lines
from services.settings import StoreSettings
from services.storage.object_store import ObjectStore
from training.errors import DarkroomError

GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
STEP_LABEL = "trainer.kubeflow.org/trainjob-ancestor-step"
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
POLL_S = 10.0


class TrainJobError(DarkroomError):
    """The job could not be created, or failed; the message quotes the cluster."""


@dataclass(frozen=True)
class Stage:
    """What the nodes train. inputs: a local path by each field of the experiment that names one.

    run: the id of the run of the pipeline, which is not a part of the job's name.
    """

    experiment: str
    overrides: Sequence[str]
    inputs: Mapping[str, str]
    checkpoints: str
    image: str
    run: str = ""

    @property
    def name(self) -> str:
        """The job's name. Equal stages have equal names, so that a retried stage finds its job."""
        content = json.dumps([self.experiment, list(self.overrides), dict(self.inputs), self.checkpoints, self.image])
        return f"darkroom-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def run(stage: Stage, profile: Profile, output: Path, settings: StoreSettings) -> None:
    """Train on the profile's nodes; afterwards `output` is as if this process had trained. Raises TrainJobError."""
    store, exchange = ObjectStore.connect(settings), f"{PREFIX}/{stage.name}"
    if store.etag(f"{exchange}/{STAGE}") is None:  # else an earlier attempt uploaded everything
        upload_stage(store, stage, exchange)
    if store.etag(f"{exchange}/{DONE}") is None:
        try:
            Jobs(POLL_S).run(stage, profile, store.uri(exchange), store_variables(settings))
        except TrainJobError:
            print(last_lines(store, exchange), flush=True)  # Kubeflow keeps the log of this stage, and not theirs
            raise
    download(store, f"{exchange}/{TRAINING}", output)
    store.delete(store.keys(f"{exchange}/"))


def upload_stage(store: ObjectStore, stage: Stage, exchange: str) -> None:
    """Upload the inputs of a stage, then its description."""
    for field, path in stage.inputs.items():
        upload(store, Path(path), f"{exchange}/{INPUTS}/{field}")
    document = {
        "experiment": stage.experiment,
        "overrides": list(stage.overrides),
        "inputs": {field: field for field in stage.inputs},
        "checkpoints": stage.checkpoints,
        "run": stage.run,
    }
    store.put(f"{exchange}/{STAGE}", json.dumps(document).encode(), content_type="application/json")


def store_variables(settings: StoreSettings) -> dict[str, str]:
    """Return the environment variables that name the store. Secrets come from the profile instead."""
    values = {
        "DARKROOM_S3_BUCKET": settings.s3_bucket,
        "DARKROOM_S3_ENDPOINT_URL": settings.s3_endpoint_url,
        "DARKROOM_S3_REGION": settings.s3_region,
    }
    return {name: value for name, value in values.items() if value}


def runtime(name: str, image: str, profile: Profile, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the TrainingRuntime of a profile: its nodes, with every secret and volume of the profile."""
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": profile.shm}}]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    for number, (claim, path) in enumerate(profile.pvc.items()):
        volumes.append({"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": f"claim-{number}", "mountPath": path})
    for number, (config_map, path) in enumerate(profile.configMaps.items()):
        volumes.append({"name": f"config-{number}", "configMap": {"name": config_map}})
        mounts.append({"name": f"config-{number}", "mountPath": path})
    if profile.ephemeralStorage:
        volumes.append({"name": "tmp", **scratch_volume(profile)})
        mounts.append({"name": "tmp", "mountPath": "/tmp"})
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
    placed = {
        "nodeSelector": profile.nodeSelector,
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in profile.tolerations],
        "affinity": profile.affinity,
        "priorityClassName": profile.priorityClassName,
        "runtimeClassName": profile.runtimeClassName,
        "imagePullSecrets": [{"name": name} for name in profile.imagePullSecrets],
    }
    pod = {
        **{field: value for field, value in placed.items() if value},
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": volumes,
        "containers": [
            {"name": "node", "image": image, "env": variables, "volumeMounts": mounts, "securityContext": confined}
        ],
    }
    node = {
        "name": "node",
        "template": {
            "metadata": {"labels": {STEP_LABEL: "trainer"}},
            # If one rank dies, all stop, and the whole job restarts from the checkpoint.
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


def scratch_volume(profile: Profile) -> dict[str, Any]:
    """Return the volume of a profile's ephemeral storage."""
    size = profile.ephemeralStorage
    if not profile.storageClass:
        return {"emptyDir": {"sizeLimit": size}}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": profile.storageClass,
        "resources": {"requests": {"storage": size}},
    }
    return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}


def train_job(name: str, image: str, profile: Profile, exchange: str) -> dict[str, Any]:
    """Return the TrainJob that runs torchrun on every node of the runtime of the same name."""
    resources: dict[str, Any] = {"cpu": profile.cpu, "memory": profile.memory}
    if profile.count:
        resources[profile.accelerator] = profile.count
    if profile.ephemeralStorage and not profile.storageClass:
        resources["ephemeral-storage"] = profile.ephemeralStorage
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
                "numProcPerNode": max(1, profile.count),  # a rank for each accelerator
                "resourcesPerNode": {"requests": resources, "limits": resources},
            },
        },
    }


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
        self.api, self.ApiError, self.poll_s = client.CustomObjectsApi(), client.ApiException, poll_s

    def run(self, stage: Stage, profile: Profile, exchange: str, environment: Mapping[str, str]) -> None:
        """Create the job, unless an earlier attempt did, and wait for its end. Raises TrainJobError."""
        name = stage.name
        try:
            found = self._get("trainjobs", name)
            if found is None or end_of(found) == "Failed":
                self._delete(name)  # a job that was refused leaves its runtime, perhaps of another profile
                self._create("trainingruntimes", runtime(name, stage.image, profile, environment))
                self._create("trainjobs", train_job(name, stage.image, profile, exchange))
            self._wait(name, profile.seconds)
            self._delete(name)
        except self.ApiError as error:
            reason = json.loads(error.body)["message"] if error.body else error.reason
            raise TrainJobError(f"train job {name}: the cluster refused it ({error.status}): {reason}") from None

    def _wait(self, name: str, timeout_s: float) -> None:
        deadline, conditions, progress = time.monotonic() + timeout_s, None, None
        while True:
            job = self._get("trainjobs", name)
            if job is None:
                raise TrainJobError(f"train job {name} was deleted")
            if (now := describe_conditions(job)) != conditions:
                conditions = now
                emit(Message(f"train job {name}: {conditions or 'created'}"))
            if (reached := progress_of(job)) not in (None, progress):
                emit(reached)
            progress = reached
            if end_of(job) == "Complete":
                return
            if end_of(job) == "Failed":
                logs = f"kubectl logs -l jobset.sigs.k8s.io/jobset-name={name}"
                raise TrainJobError(f"train job {name} failed: {conditions}; see above, or: {logs}")
            if time.monotonic() > deadline:
                raise TrainJobError(f"train job {name} has not ended within {timeout_s:.0f} s: {conditions}")
            time.sleep(self.poll_s)

    def _get(self, kind: str, name: str) -> Any:
        try:
            return self.api.get_namespaced_custom_object(GROUP, VERSION, self.namespace, kind, name)
        except self.ApiError as error:
            if error.status == 404:
                return None
            raise

    def _create(self, kind: str, body: dict[str, Any]) -> None:
        try:
            self.api.create_namespaced_custom_object(GROUP, VERSION, self.namespace, kind, body)
        except self.ApiError as error:
            if error.status != 409:  # an earlier attempt created it
                raise

    def _delete(self, name: str) -> None:
        for kind in ("trainjobs", "trainingruntimes"):
            if self._get(kind, name) is not None:
                self.api.delete_namespaced_custom_object(GROUP, VERSION, self.namespace, kind, name)
        # The cluster removes the job's pods first, and the runtime after the job.
        while any(self._get(kind, name) is not None for kind in ("trainjobs", "trainingruntimes")):
            time.sleep(self.poll_s)


def end_of(job: Mapping[str, Any]) -> str | None:
    """Return `Complete` or `Failed`, or None while the job runs."""
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return None


def progress_of(job: Mapping[str, Any]) -> Progress | None:
    """Return how far a job is, in per cent, or None where Kubeflow Trainer does not say."""
    status = job.get("status", {}).get("trainerStatus", {})
    if "progressPercentage" not in status:
        return None
    parts = [f"{one['name']} {one['value']}" for one in status.get("metrics", ())]
    if "estimatedRemainingSeconds" in status:
        parts.append(f"{status['estimatedRemainingSeconds']} s left")
    return Progress(status["progressPercentage"], 100, ", ".join(parts))


def describe_conditions(job: Mapping[str, Any]) -> str:
    """Return the conditions that the cluster reports of a job, with their reasons."""
    conditions = [one for one in job.get("status", {}).get("conditions", ()) if one["status"] == "True"]
    return ", ".join(f"{one['type']} ({one.get('message') or one.get('reason', '')})" for one in conditions)
