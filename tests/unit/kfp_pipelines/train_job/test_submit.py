"""The manifests of a TrainJob conform to Kubeflow Trainer, and carry everything of the profile."""

from pathlib import Path
from typing import Any

import pytest
from kubeflow_trainer_api import models

from kfp_pipelines import profiles
from kfp_pipelines.definition.pipeline import compile_to
from kfp_pipelines.definition.placement import STAGES, Stages
from kfp_pipelines.events import Progress
from kfp_pipelines.profiles import Profile
from kfp_pipelines.train_job import submit
from tests.support.kfp_package import PROFILES, Package

A100 = profiles.read_profiles(PROFILES, [], STAGES).by_name["a100"]
NODES = A100.model_copy(update={"trainJob": True, "nodes": 4, "count": 8})
IMAGE = "images.example/darkroom"
ENVIRONMENT = {"DARKROOM_S3_BUCKET": "images"}


def check_conforms(manifest: dict[str, Any], model: Any) -> None:
    """The API's model parses and writes the manifest unchanged: no field is unknown or of another type."""
    assert model.from_dict(manifest).to_dict() == manifest


def test_the_manifests_conform_to_the_api() -> None:
    check_conforms(submit.train_job("darkroom-x", IMAGE, NODES, "s3://images/x"), models.TrainerV1alpha1TrainJob)
    runtime = submit.runtime("darkroom-x", IMAGE, NODES, ENVIRONMENT)
    check_conforms(runtime["spec"]["mlPolicy"], models.TrainerV1alpha1MLPolicy)
    node = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    check_conforms(node, models.IoK8sApiCoreV1PodSpec)
    check_conforms(runtime["spec"]["template"], models.TrainerV1alpha1JobSetTemplateSpec)


def test_the_job_is_torchrun_on_every_node() -> None:
    assert submit.train_job("darkroom-x", IMAGE, NODES, "s3://images/x") == {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "darkroom-x", "labels": {"kueue.x-k8s.io/queue-name": "training"}},
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "darkroom-x"},
            "trainer": {
                "image": IMAGE,
                "command": ["torchrun", "-m", "kfp_pipelines.stages.train_node"],
                "args": ["s3://images/x"],
                "numNodes": 4,
                "numProcPerNode": 8,
                "resourcesPerNode": {
                    "requests": {"cpu": "8", "memory": "48Gi", "nvidia.com/gpu": 8},
                    "limits": {"cpu": "8", "memory": "48Gi", "nvidia.com/gpu": 8},
                },
            },
        },
    }


def test_the_runtime_carries_the_profile() -> None:
    spec = submit.runtime("darkroom-x", IMAGE, NODES, ENVIRONMENT)["spec"]["template"]["spec"]
    assert spec["failurePolicy"] == {"maxRestarts": 10}
    pod = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == A100.nodeSelector
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["nvidia.com/gpu", "cloud.google.com/gke-spot"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]] == {"emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}
    assert volumes[mounts["/data"]] == {"persistentVolumeClaim": {"claimName": "pictures"}}
    variables = {one.pop("name"): one for one in pod["containers"][0]["env"]}
    assert variables["DARKROOM_S3_BUCKET"] == {"value": "images"}
    secret = {"secretKeyRef": {"name": "darkroom-s3", "key": "secret-access-key"}}
    assert variables["DARKROOM_S3_SECRET_ACCESS_KEY"] == {"valueFrom": secret}


def test_its_pods_meet_the_restricted_pod_security_standard() -> None:
    template = submit.runtime("darkroom-x", IMAGE, NODES, ENVIRONMENT)["spec"]["template"]["spec"]["replicatedJobs"][0]
    pod = template["template"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"USER {pod['securityContext']['fsGroup']}:" in Path("Dockerfile").read_text()
    (container,) = pod["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_a_job_has_the_scheduling_and_the_disk_of_its_profile() -> None:
    required = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100"]}]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    more = {"affinity": affinity, "priorityClassName": "batch", "runtimeClassName": "nvidia",
            "imagePullSecrets": ["registry"], "ephemeralStorage": "80Gi", "configMaps": {"ca": "/etc/ca"}}  # fmt: skip
    profile = NODES.model_copy(update=more)
    runtime = submit.runtime("darkroom-x", IMAGE, profile, ENVIRONMENT)
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    check_conforms(pod, models.IoK8sApiCoreV1PodSpec)
    assert pod["affinity"] == affinity
    assert (pod["priorityClassName"], pod["runtimeClassName"]) == ("batch", "nvidia")
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts["/tmp"]["emptyDir"] == {"sizeLimit": "80Gi"}
    assert mounts["/etc/ca"]["configMap"] == {"name": "ca"}
    limits = submit.train_job("x", IMAGE, profile, "s3://b/x")["spec"]["trainer"]["resourcesPerNode"]["limits"]
    assert limits["ephemeral-storage"] == "80Gi"
    own_disk = submit.scratch_volume(profile.model_copy(update={"storageClass": "fast"}))
    assert own_disk["ephemeral"]["volumeClaimTemplate"]["spec"]["storageClassName"] == "fast"


def test_a_job_without_scheduling_has_no_empty_field() -> None:
    runtime = submit.runtime("x", IMAGE, Profile.model_validate({"trainJob": True}), {})
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert not {"affinity", "tolerations", "nodeSelector", "imagePullSecrets"} & pod.keys()


@pytest.mark.parametrize(
    ("status", "progress"),
    [
        ({}, None),
        ({"trainerStatus": {}}, None),
        ({"trainerStatus": {"progressPercentage": 45}}, Progress(45, 100)),
        (
            {
                "trainerStatus": {
                    "progressPercentage": 7,
                    "estimatedRemainingSeconds": 90,
                    "metrics": [{"name": "loss", "value": "0.23"}],
                }
            },
            Progress(7, 100, "loss 0.23, 90 s left"),
        ),
    ],
)
def test_progress_is_what_the_trainer_reports(status: dict[str, Any], progress: Progress | None) -> None:
    assert submit.progress_of({"status": status}) == progress


def test_the_pod_that_waits_for_a_job_requests_no_accelerator(tmp_path: Path) -> None:
    path = tmp_path / "profiles.yaml"
    path.write_text("default: {cpu: '1'}\nmany: {trainJob: true, nodes: 2, count: 8}\n")
    compile_to(tmp_path / "full.yaml", "full", Stages(profiles.read_profiles(path, ["train-diffusion=many"], STAGES)))
    package = Package(tmp_path / "full.yaml")
    task = package.tasks["train-diffusion"]
    resources = package.executors[task["executor"]]["container"]["resources"]
    assert "accelerator" not in resources
    assert resources["resourceCpuRequest"] == "1"
    job = Profile.model_validate_json(task["inputs"]["parameters"]["job"]["runtimeValue"]["constant"])
    assert (job.nodes, job.count) == (2, 8)
    assert package.tasks["train-autoencoder"]["inputs"]["parameters"]["job"]["runtimeValue"]["constant"] == ""


def test_several_nodes_require_a_train_job(tmp_path: Path) -> None:
    (tmp_path / "profiles.yaml").write_text("many: {nodes: 2}")
    with pytest.raises(profiles.ProfileError, match="nodes: 2 requires trainJob: true"):
        profiles.read_profiles(tmp_path / "profiles.yaml", [], STAGES)
