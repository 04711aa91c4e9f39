"""Every variant compiles to a package that Kubeflow can run."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from kfp_pipelines import profiles
from kfp_pipelines.definition.pipeline import VARIANTS, compile_to
from kfp_pipelines.definition.placement import STAGES, Stages
from tests.support.kfp_package import PROFILES, Package

HERE = Path(__file__).parents[1]
IMAGE = f"images.example/darkroom@sha256:{'1' * 64}"
GPU_STAGES = ("train-autoencoder", "train-diffusion", "encode-latents", "evaluate-diffusion", "train-student",
              "evaluate-student")  # fmt: skip
GATED = ("full", "diffusion", "fine-tune", "distil")
CHOICES = [*(f"{stage}=a100" for stage in GPU_STAGES), "smoke=submitter"]
# Stages that read or change what is published.
NEVER_CACHED = {"fetch-autoencoder", "fetch-base", "fetch-teacher", "gate", "publish-autoencoder",
                "publish-diffusion", "smoke", "promote", "tell-end"}  # fmt: skip


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    folder = tmp_path_factory.mktemp("packages")
    placed = Stages(profiles.read_profiles(PROFILES, CHOICES, STAGES), image=IMAGE)
    for variant in VARIANTS:
        compile_to(folder / f"{variant}.yaml", variant, placed)
    return {variant: Package(folder / f"{variant}.yaml") for variant in VARIANTS}


@pytest.fixture(params=list(VARIANTS))
def package(packages: dict[str, Package], request: pytest.FixtureRequest) -> Package:
    return packages[request.param]


def test_kubeflow_can_read_the_package(package: Package) -> None:
    json_format.ParseDict(copy.deepcopy(package.spec), pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(package.spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
    for config in package.kubernetes.values():
        json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def test_every_stage_has_a_known_name(package: Package) -> None:
    assert set(package.tasks) <= set(STAGES)


def test_every_stage_runs_on_the_project_image_and_installs_nothing(package: Package) -> None:
    for executor in package.executors.values():
        assert executor["container"]["image"] == IMAGE
        assert executor["container"]["env"] == [{"name": "DARKROOM_IMAGE", "value": IMAGE}]
        assert "pip install" not in " ".join(executor["container"]["command"] + executor["container"]["args"])


def test_a_stage_with_an_accelerator_has_nodes_tolerations_and_retries(package: Package) -> None:
    with_gpu = 0
    for task in package.tasks.values():
        config = package.kubernetes[task["executor"]]
        assert int(config["activeDeadlineSeconds"]) > 0
        assert config["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
        resources = package.executors[task["executor"]]["container"]["resources"]
        if "accelerator" in resources:
            with_gpu += 1
            assert config["tolerations"]
            assert config["nodeSelector"]["labels"]
            assert task["retryPolicy"]["maxRetryCount"] == 10
    assert with_gpu >= 2


def test_every_stage_runs_as_the_user_of_the_image(package: Package) -> None:
    """The backend sets the rest of the Pod Security Standard `restricted`, but not who a container runs as."""
    for task in package.tasks.values():
        context = package.kubernetes[task["executor"]]["securityContext"]
        assert context == {"runAsUser": "65532", "runAsGroup": "65532", "runAsNonRoot": True}


def test_a_stage_has_the_scheduling_and_the_disk_of_its_profile(tmp_path: Path) -> None:
    (tmp_path / "profiles.yaml").write_text("""
default:
  count: 4
  imagePullSecrets: [registry]
  ephemeralStorage: 80Gi
  configMaps: {ca: /etc/ca}
  tolerations: [{key: spot, operator: Exists, effect: NoExecute, tolerationSeconds: 30}]
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: gpu, operator: In, values: [h100]}]}]
      preferredDuringSchedulingIgnoredDuringExecution:
        - {weight: 5, preference: {matchExpressions: [{key: zone, operator: Exists}]}}
own-disk: {ephemeralStorage: 80Gi, storageClass: fast}
""")
    choices = ["default", "gate=own-disk"]
    stages = Stages(profiles.read_profiles(tmp_path / "profiles.yaml", choices, STAGES), image=IMAGE)
    compile_to(tmp_path / "full.yaml", "full", stages)
    package = Package(tmp_path / "full.yaml")
    executor = package.tasks["train-diffusion"]["executor"]
    config = package.kubernetes[executor]
    json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    assert [one["secretName"] for one in config["imagePullSecret"]] == ["registry"]
    assert {"volumeName": "tmp", "mountPath": "/tmp", "sizeLimit": "80Gi"} in config["emptyDirMounts"]
    assert config["configMapAsVolume"][0]["mountPath"] == "/etc/ca"
    assert config["tolerations"][0]["tolerationSeconds"] == "30"
    required, preferred = config["nodeAffinity"]
    assert required == {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100"]}]}
    assert preferred["weight"] == 5
    variables = {one["name"]: one["value"] for one in package.executors[executor]["container"]["env"]}
    assert variables["DARKROOM_ACCELERATORS"] == "4"
    (disk,) = package.kubernetes[package.tasks["gate"]["executor"]]["genericEphemeralVolume"]
    assert (disk["mountPath"], disk["size"], disk["storageClassName"]) == ("/tmp", "80Gi", "fast")


def test_text_and_quantities_that_only_kubernetes_knows_reach_the_backend(tmp_path: Path) -> None:
    """The backend reads YAML with a library of Go, for which 1e3 is no text; KFP knows no fractions of memory."""
    (tmp_path / "profiles.yaml").write_text("""
default: {cpu: 1k, memory: 1.5Gi, shm: 0.5Gi, nodeSelector: {gpu: "y", id: "1e3", o: "0o17"}, env: {A: "1.5e3", B: N}}
""")
    stages = Stages(profiles.read_profiles(tmp_path / "profiles.yaml", [], STAGES), image=IMAGE)
    compile_to(tmp_path / "diffusion.yaml", "diffusion", stages)
    package = Package(tmp_path / "diffusion.yaml")
    for line in ("gpu: 'y'", "id: '1e3'", "o: '0o17'", "value: '1.5e3'", "value: 'N'"):
        assert f"{line}\n" in package.text
    container = package.executors[package.tasks["gate"]["executor"]]["container"]
    assert container["resources"]["resourceMemoryLimit"] == str(3 * 2**29)
    assert container["resources"]["resourceCpuLimit"] == "1000"
    assert yaml.dump({"a": "1e3"}) == "a: 1e3\n", "the writer of others is as it was"


def test_secrets_come_only_from_kubernetes_secrets(package: Package) -> None:
    for executor in package.executors.values():
        assert [variable["name"] for variable in executor["container"]["env"]] == ["DARKROOM_IMAGE"]
    for stage, task in package.tasks.items():
        names = {secret["secretName"] for secret in package.kubernetes[task["executor"]]["secretAsEnv"]}
        if stage in GPU_STAGES:
            assert names == {"darkroom-s3"}, "no database for a stage that trains"
        if stage == "smoke":
            assert names == {"darkroom-submitter"}
    words = ("password", "secret", "token", "key", "url")
    for name in package.spec["root"]["inputDefinitions"]["parameters"]:
        assert not any(word in name for word in words), name


def test_stages_that_read_or_change_the_registry_are_never_cached(package: Package) -> None:
    for stage, task in package.tasks.items():
        assert task.get("cachingOptions", {}).get("enableCache", False) is (stage not in NEVER_CACHED), stage


def test_a_schedule_prepares_its_images_in_every_run(tmp_path: Path) -> None:
    for fresh in (True, False):
        compile_to(tmp_path / "package.yaml", "full", Stages(fresh_data=fresh))
        spec = next(yaml.load_all((tmp_path / "package.yaml").read_text(), yaml.CSafeLoader))
        (inner,) = (c for c in spec["components"].values() if "prepare-data" in c.get("dag", {}).get("tasks", {}))
        caching = inner["dag"]["tasks"]["prepare-data"].get("cachingOptions", {})
        assert caching.get("enableCache", False) is not fresh


def test_nothing_is_published_unless_the_gate_passed(packages: dict[str, Package]) -> None:
    for variant in GATED:
        spec = packages[variant].spec
        (inner,) = (c for c in spec["components"].values() if "gate" in c.get("dag", {}).get("tasks", {}))
        (passed,) = (task for name, task in inner["dag"]["tasks"].items() if name.startswith("condition"))
        assert "== 'passed'" in passed["triggerPolicy"]["condition"]
        within = spec["components"][passed["componentRef"]["name"]]["dag"]["tasks"]
        assert {"publish", "smoke", "promote"} <= set(within)
        assert "smoke" in within["promote"]["dependentTasks"]
        assert not {"publish", "smoke", "promote"} & set(inner["dag"]["tasks"])


def test_the_end_is_reported_even_if_a_stage_fails(packages: dict[str, Package]) -> None:
    for variant in GATED:
        end = packages[variant].spec["root"]["dag"]["tasks"]["tell-end"]
        assert end["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_a_student_is_published_with_the_default_that_its_evaluation_chose(packages: dict[str, Package]) -> None:
    """The evaluation sets the default, so what is published and sampled is its output, not that of the training."""
    package = packages["distil"]
    components = package.spec["components"]
    (inner,) = (c["dag"]["tasks"] for c in components.values() if "gate" in c.get("dag", {}).get("tasks", {}))
    assert set(inner["evaluate-student"]["inputs"]["artifacts"]) == {"images", "teacher", "training"}
    given = next(task for name, task in inner.items() if name.startswith("condition"))["inputs"]["artifacts"]
    trained = [one["taskOutputArtifact"] for one in given.values() if "taskOutputArtifact" in one]
    outputs = {(one["producerTask"], one["outputArtifactKey"]) for one in trained}
    assert {one for one in outputs if one[0] != "gate"} == {
        ("evaluate-student", "student"), ("evaluate-student", "evaluation"), ("prepare-data", "images"),
    }  # fmt: skip


def test_a_sweep_has_no_exit_handler(packages: dict[str, Package]) -> None:
    """KFP's backend cannot run a loop within one: kubeflow/pipelines#12390."""
    root = packages["sweep"].spec["root"]["dag"]["tasks"]
    assert "tell-end" not in root
    assert any("parameterIterator" in task for task in root.values())


def test_compiling_again_gives_the_same_package(package: Package, packages: dict[str, Package], tmp_path: Path) -> None:
    (variant,) = (name for name, one in packages.items() if one is package)
    compile_to(tmp_path / "again.yaml", variant, Stages(profiles.read_profiles(PROFILES, CHOICES, STAGES), image=IMAGE))
    assert (tmp_path / "again.yaml").read_text() == package.text


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_outline_equals_the_recorded_one(packages: dict[str, Package], variant: str) -> None:
    """A change of the packages is seen in review.

    To record it: python -m tests.unit.kfp_pipelines.definition.test_pipeline
    """
    assert packages[variant].outline() == json.loads((HERE / "outlines" / f"{variant}.json").read_text())


def record() -> None:
    """Write the outlines of the present packages."""
    from tempfile import TemporaryDirectory

    placed = Stages(profiles.read_profiles(PROFILES, CHOICES, STAGES))
    (HERE / "outlines").mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        for variant in VARIANTS:
            compile_to(Path(folder) / "package.yaml", variant, placed)
            outline = Package(Path(folder) / "package.yaml").outline()
            (HERE / "outlines" / f"{variant}.json").write_text(json.dumps(outline, indent=1) + "\n")


if __name__ == "__main__":
    record()
