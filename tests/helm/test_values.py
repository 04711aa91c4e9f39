"""Values: mistakes are refused by name, and schema and README cover every value."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kfp_pipelines import profiles
from tests.support.chart import (
    CHART,
    MATRIX,
    NAMESPACE,
    PASSWORD,
    helm,
    load_objects,
    objects,
    of_kind,
    pods,
    pods_of,
    secret_values,
    template,
)

LEAST = MATRIX["least"]


OIDC = (
    "console.enabled=true,console.hosts={a.example.com},console.tenants.team=shop,"
    "console.oidc.issuer=https://sso.example.com,console.oidc.clientId=darkroom"
)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("objectStore.bucket=", "objectStore.bucket: must be given"),
        ("workerPools.default.queues={slow}", 'workerPools.default.queues: "slow" is not among queues: default'),
        ("queues={default,slow}", 'queues: "slow" is served by no pool'),
        ("workerDefaults.autoscaling.minReplicas=9", "minReplicas 9 is above maxReplicas 4"),
        ("workerDefaults.rollout.maxUnavailable=0", "maxSurge and maxUnavailable are both 0"),
        ("workerPools.a-pool-of-21-letters-x.replicas=1", '"a-pool-of-21-letters-x" is not allowed'),
        ("workerDefaults.extraEnv[0].name=DARKROOM_ROWS", "DARKROOM_ROWS has a value of its own"),
        ("settings.staleSeconds=9", "settings.staleSeconds: 9 is not allowed; permitted: more than twice"),
        ("devServices.enabled=true,devServices.password=", "devServices.password: must be given"),
        ("metrics.rules.enabled=true,exporter.enabled=false", "the alerts need exporter.enabled"),
        ("console.enabled=true", "console.proxy.networks: must be given with console.enabled, or console.oidc.issuer"),
        (f"{OIDC},console.oidc.clientId=", "console.oidc.clientId: must be given with console.enabled"),
        (f"{OIDC},console.tenants=null", "console.tenants: must be given with console.enabled"),
        (f"{OIDC},console.oidc.issuer=", "console.oidc.clientId: needs console.oidc.issuer"),
        (f"{OIDC},console.proxy.userHeader=X", "console: oidc.issuer and proxy are both given"),
        (f"{OIDC},console.oidc.tenantClaim=org", "console: oidc.tenantClaim and tenants are both given"),
        (f"{OIDC},console.oidc.issuer=https://a:8443/b", "console.oidc.issuer: port 8443 is not among networkPolicy"),
        (
            "workerDefaults.cache.sizeGb=500",
            "cache.sizeGb 500 and 7 Gi for kernels and /tmp are above",
        ),
        ("workerDefaults.shm=64Gi", "shm 64Gi is above resources.limits.memory 12Gi"),
        (
            "workerDefaults.gpu.count=0,workerDefaults.modelMemoryGb=20",
            "modelMemoryGb 20 is above resources.limits",
        ),
        ("workerDefaults.gpu.count=0,workerDefaults.device=cuda", "device cuda needs a GPU, and gpu.count is 0"),
        ("workerDefaults.device=cpu", "device cpu would leave the GPU idle that gpu.count 1 requests"),
        ("workerDefaults.gpu.count=0,workerDefaults.gpu.product=L4", "gpu.product L4 needs a GPU, and gpu.count is 0"),
        (
            "workerDefaults.gpu.product=L4,workerDefaults.nodeSelector.nvidia\\.com/gpu\\.product=T4",
            "gpu.product L4 and nodeSelector nvidia.com/gpu.product T4 match no node together",
        ),
        ("workerDefaults.resources.requests.memory=20Gi", "requests.memory 20Gi is above limits.memory 12Gi"),
        ("migration.resources.requests.cpu=1500m", "migration.resources: requests.cpu 1500m is above limits.cpu 1"),
        (
            "workerDefaults.cache.storageClass=a,workerDefaults.cache.existingClaim=b",
            "cache: storageClass a and existingClaim b are both given",
        ),
        (
            "workerPools.default.autoscaling.weight=2,workerPools.b.replicas=1",
            'of the pools of queue "default", default has autoscaling.weight and b has none',
        ),
        ("workerDefaults.cache.warm.alias=production", "warm.alias production needs existingClaim, which is empty"),
        ("caBundle.configMap=a,caBundle.secret=b", "caBundle: configMap a and secret b are both given"),
        ("podDefaults.extraEnv[0].name=DARKROOM_S3_BUCKET", "DARKROOM_S3_BUCKET has a value of its own"),
        (
            "dispatcher.extraEnv[0].name=HTTPS_PROXY,proxy.https=http://p:1",
            "dispatcher.extraEnv: HTTPS_PROXY has a",
        ),
        ("workerDefaults.autoscaling.fallback.replicas=9", "fallback.replicas 9 is above maxReplicas 4"),
        (
            "workerDefaults.gpu.claimTemplate=a-gpu,workerDefaults.gpu.resource=nvidia.com/mig-1g.10gb",
            "gpu: claimTemplate a-gpu and resource nvidia.com/mig-1g.10gb are both given",
        ),
        ("podSecurityContext.runAsUser=0", "workerPools.default: runAsUser 0 and runAsNonRoot true are both given"),
        ("dispatcher.podSecurityContext.runAsUser=0", "dispatcher: runAsUser 0 and runAsNonRoot true are both given"),
        (
            "exporter.containerSecurityContext.privileged=true",
            "exporter.containerSecurityContext: privileged true needs allowPrivilegeEscalation true",
        ),
        (
            "objectStore.endpointUrl=http://minio:9000",
            "objectStore.endpointUrl: port 9000 is not among networkPolicy.objectStore.ports, 443",
        ),
        ("objectStore.endpointUrl=http://minio", "objectStore.endpointUrl: port 80 is not among"),
        (
            "objectStore.existingSecret=s,objectStore.keys.accessKeyId=secret-access-key",
            'objectStore.keys: accessKeyId and secretAccessKey are both "secret-access-key"',
        ),
        ("settings.stepLimitSeconds=2", "stepLimitSeconds: 2 is not allowed; permitted: more than twice pollSeconds"),
        (
            "exporter.sidecars[0].name=exporter,exporter.sidecars[0].image=a",
            "exporter: two containers of the pod have the name exporter; permitted: one",
        ),
        ("commonLabels.helm\\.sh/chart=a", "commonLabels: helm.sh/chart has a value of its own in this chart"),
        ("migration.enabled=false,migration.hook=true", "migration.hook: true needs migration.enabled, which is false"),
        # Errors from the schema.
        ("podDefaults.affinity.nodeAfinity.a=1", "additional properties 'nodeAfinity' not allowed"),
        ("dispatcher.topologySpreadConstraints[0].maxSkw=1", "additional properties 'maxSkw' not allowed"),
        ("networkPolicy.database.to[0].ipblock.cidr=10.0.0.0/8", "additional properties 'ipblock' not allowed"),
        ("networkPolicy.metricsFrom[0]=null", "/networkPolicy/metricsFrom/0"),
        ("podDefaults.extraEnvFrom[0].secretref.name=a", "additional properties 'secretref' not allowed"),
        ("podDefaults.extraEnv[0].name=A,podDefaults.extraEnv[0].valueFrom.secret.name=a", "'secret' not allowed"),
        ("podDefaults.sidecars[0].name=a,podDefaults.sidecars[0].image=b,podDefaults.sidecars[0].arg=c", "'arg' not"),
        ("containerSecurityContext.readOnlyRootFileSystem=true", "'readOnlyRootFileSystem' not allowed"),
        ("workerDefaults.kueueQueue=Bad_Name", "/workerDefaults/kueueQueue"),
        ("fullnameOverride=a-name-that-would-be-cut-at-35-letters", "/fullnameOverride"),
        ("global.imageRegistry=https://registry", "/global/imageRegistry"),
        ("workerPool.a.rows=3", "additional properties 'workerPool' not allowed"),
        ("workerPools.default.row=3", "additional properties 'row' not allowed"),
        ("workerDefaults.rows=1", "/workerDefaults/rows"),
        ("workerDefaults.gpu.count=2", "/workerDefaults/gpu/count"),
        ("workerDefaults.resources.limits.nvidia\\.com/gpu=1", "nvidia.com/gpu belongs into gpu.resource"),
        ("image.digest=latest", "/image/digest"),
        ("training.profiles.gpu.gpus=8", "additional properties 'gpus' not allowed"),
        ("devServices.password=short", "/devServices/password"),
    ],
)
def test_a_mistake_names_its_value(given: str, message: str) -> None:
    done = template(LEAST, "--set", given, check=False)
    assert done.returncode != 0
    assert message in done.stderr, done.stderr


def test_a_pool_must_be_given_because_none_is_added_unasked() -> None:
    done = helm("template", "pictures", str(CHART), "--set", "objectStore.bucket=pictures", check=False)
    assert "workerPools: must have at least one pool, such as workerPools: {default: {}}" in done.stderr
    aws = [one["metadata"]["name"] for one in of_kind("aws", "ScaledObject")]
    assert aws == ["pictures-darkroom-worker-h100", "pictures-darkroom-worker-l4"]


def test_only_the_bucket_is_required() -> None:
    assert {pod.component for pod in pods("least")} == {
        "dispatcher", "exporter", "migration", "retention", "test", "worker",
    }  # fmt: skip


# Fields that every component accepts beside those of podDefaults, which describes them.
OF_A_COMPONENT = {"image", "podSecurityContext", "containerSecurityContext", "serviceAccount"}
# What pods and network policies have in Kubernetes: the schema knows its fields, and the defaults have few of them.
KUBERNETES = {"affinity", "dnsConfig", "podSecurityContext", "containerSecurityContext"}
COMPONENTS = {".dispatcher", ".exporter", ".console", ".retention", ".migration", ".test", ".workerDefaults"}


def as_set(values: dict[str, Any]) -> list[str]:
    """Return arguments of --set-json for these values."""
    return [",".join(f"{name}={json.dumps(value)}" for name, value in values.items())]


def find_mismatches(values: dict[str, Any], schema: dict[str, Any], whole: dict[str, Any], path: str = "") -> list[str]:
    """Return values that the schema lacks, and properties of the schema that have no value."""
    while "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if "properties" not in schema:
        return []
    expected = set(values)
    if path in COMPONENTS:
        expected |= whole["properties"]["podDefaults"]["properties"].keys() | OF_A_COMPONENT
    wrong = [f"{path}.{key}: only on one side" for key in expected ^ schema["properties"].keys()]
    for key in values.keys() & schema["properties"].keys():
        if isinstance(values[key], dict) and key not in KUBERNETES:
            wrong += find_mismatches(values[key], schema["properties"][key], whole, f"{path}.{key}")
    return wrong


def test_the_schema_has_exactly_the_values() -> None:
    """Everywhere: a value with a wrong name is refused."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert find_mismatches(yaml.safe_load((CHART / "values.yaml").read_text()), schema, schema) == []
    assert list(find_open(schema)) == [".properties.global"]  # which is shared with charts that contain this one


def find_open(schema: Any, path: str = "") -> Iterator[str]:
    """Yield the objects of a schema that accept any property."""
    if isinstance(schema, list):
        schema = dict(enumerate(schema))
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object" and schema.get("additionalProperties", True) is True:
        yield path
    for key, part in schema.items():
        yield from find_open(part, f"{path}.{key}")


NEEDED = ("database.keys.worker", "settings.pollSeconds", "metrics", "networkPolicy.database", "commonLabels",
          "workerDefaults.resources", "workerDefaults.gpu.resource", "networkPolicy.identity.ports")  # fmt: skip


@pytest.mark.parametrize("path", NEEDED)
def test_a_default_that_is_needed_cannot_be_removed(path: str) -> None:
    """With null, which a template would turn into an empty text."""
    done = template(LEAST, "--set", f"{path}=null", check=False)
    parent, _, name = path.rpartition(".")
    assert f"at '/{parent.replace('.', '/')}': missing property '{name}'".replace("'/'", "''") in done.stderr


def test_a_component_may_switch_off_what_all_have() -> None:
    """`false` counts as a value."""
    given = {"containerSecurityContext": {"readOnlyRootFilesystem": False}}
    sidecar = {"name": "proxy", "image": "proxy:1", "securityContext": {"readOnlyRootFilesystem": False}}
    values = {"dispatcher": given, "exporter": {"sidecars": [sidecar]}, "workerPools": {"default": given}}
    found = {pod.component: pod for pod in pods_of(load_objects(template(LEAST, "--set-json", *as_set(values)).stdout))}
    for component in ("dispatcher", "worker"):
        assert {one["securityContext"]["readOnlyRootFilesystem"] for one in found[component].containers} == {False}
    proxy, *others = found["exporter"].containers
    assert (proxy["name"], proxy["securityContext"]["readOnlyRootFilesystem"]) == ("proxy", False)
    assert proxy["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {one["securityContext"]["readOnlyRootFilesystem"] for one in others} == {True}


def test_a_tag_of_a_pool_is_not_hidden_by_the_digest_of_all() -> None:
    given = {"image": {"digest": f"sha256:{1:064}"}, "workerPools": {"default": {"image": {"tag": "special"}}, "b": {}}}
    done = template(LEAST, "--set-json", *as_set(given))
    images = {pod.name: pod.main["image"] for pod in pods_of(load_objects(done.stdout)) if pod.component == "worker"}
    assert images["Deployment/pictures-darkroom-worker-default"] == "darkroom:special"
    assert images["Deployment/pictures-darkroom-worker-b"] == f"darkroom@sha256:{1:064}"


def test_global_values_of_a_parent_chart_are_accepted() -> None:
    template(LEAST, "--set", "global.anything=1")


def find_undescribed(values: dict[str, Any], named: set[str], path: str = "") -> list[str]:
    """Return values that no @param describes, neither directly nor through an object that contains them."""
    missing = []
    for key, value in values.items():
        name = f"{path}{key}"
        if name not in named:
            missing += find_undescribed(value, named, f"{name}.") if isinstance(value, dict) and value else [name]
    return missing


def test_every_value_is_described() -> None:
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    named = re.findall(r"^## @param (\S+) (.+)$", text, re.MULTILINE)
    assert find_undescribed(values, {name for name, _ in named}) == []
    for name, _ in named:
        at: Any = values
        for part in name.split("."):
            assert part in at, f"{name} does not exist"
            at = at[part]


def test_the_readme_has_every_value_with_its_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    readme, text = (CHART / "README.md").read_text(), (CHART / "values.yaml").read_text()
    rows = dict(re.findall(r"^\| `([^`]+)` +\|.*\| `([^`]*)` +\|$", readme, re.MULTILINE))
    described = re.findall(r"^## @param (\S+)( \[(?:object|array)\])?", text, re.MULTILINE)
    assert set(rows) == {name for name, _ in described}
    for name, is_object in described:
        at: Any = values
        for part in name.split("."):
            at = at[part]
        if not is_object and not isinstance(at, list | dict):
            assert rows[name] == (at if isinstance(at, str) and at else json.dumps(at)), name


@pytest.mark.parametrize("name", MATRIX)
def test_submitting_accepts_the_training_profiles(name: str, tmp_path: Path) -> None:
    (config,) = (one for one in of_kind(name, "ConfigMap") if one["metadata"]["name"].endswith("training-profiles"))
    file = tmp_path / "profiles.yaml"
    file.write_text(config["data"]["profiles.yaml"])
    read = profiles.read_profiles(file, ["gpu=gpu", "smoke=submitter"], ["train-diffusion", "smoke"])
    assert {"default", "submitter", "gpu"} <= read.by_name.keys()
    for profile in read.by_name.values():
        variables = set(profile.env) | {variable for keys in profile.secrets.values() for variable in keys.values()}
        assert {"DARKROOM_S3_BUCKET", "DARKROOM_S3_REGION"} <= variables
    smoke = read.find("smoke")
    assert smoke is not None
    assert smoke.secrets["darkroom-database"] == {"submitter": "DARKROOM_DATABASE_URL"}


def test_training_profiles_have_the_proxies_the_bundle_and_the_pull_secrets(tmp_path: Path) -> None:
    given = "caBundle.configMap=company-ca,proxy.https=http://p:3128,global.imagePullSecrets={registry}"
    done = template(LEAST, "--set", given)
    (config,) = (one for one in load_objects(done.stdout) if one["kind"] == "ConfigMap")
    (tmp_path / "profiles.yaml").write_text(config["data"]["profiles.yaml"])
    for profile in profiles.read_profiles(tmp_path / "profiles.yaml", [], []).by_name.values():
        assert profile.env["HTTPS_PROXY"] == "http://p:3128"
        assert profile.env["AWS_CA_BUNDLE"] == "/etc/darkroom/ca/ca.crt"
        assert profile.configMaps == {"company-ca": "/etc/darkroom/ca"}
        assert profile.imagePullSecrets == ["registry"]


def test_a_pool_replaces_a_selector_as_a_whole_and_merges_the_rest() -> None:
    (deployment,) = (pod for pod in pods("everything") if pod.name.endswith("a-pool-of-20-letters"))
    assert deployment.spec["nodeSelector"] == {"gpu": "h100"}
    assert deployment.main["resources"]["limits"] == {"cpu": "8", "memory": "64Gi", "nvidia.com/mig-3g.40gb": 1}
    assert deployment.spec["tolerations"]  # from workerDefaults
    (cpu,) = (pod for pod in pods("everything") if pod.name.endswith("worker-cpu"))
    assert cpu.spec["nodeSelector"] == {"disk": "ssd"}


def test_a_change_of_one_pool_changes_only_that_pool() -> None:
    before = {str(one["metadata"]["name"]) + one["kind"]: one for one in objects("aws")}
    done = template(MATRIX["aws"], "--set", "workerPools.l4.rows=64")
    after = {str(one["metadata"]["name"]) + one["kind"]: one for one in load_objects(done.stdout)}
    assert [key for key in after if after[key] != before[key]] == ["pictures-darkroom-worker-l4Deployment"]


def test_a_changed_secret_replaces_the_pods_that_read_it() -> None:
    done = template(LEAST, "--set", "secretsVersion=2")
    for one in load_objects(done.stdout):
        if one["kind"] == "Deployment":
            assert one["spec"]["template"]["metadata"]["annotations"] == {"darkroom/secrets-version": "2"}


def test_large_numbers_stay_numbers() -> None:
    (scaled,) = of_kind("everything", "ScaledObject")
    assert scaled["spec"]["triggers"][0]["metadata"]["targetQueryValue"] == "5000000"


def test_dev_passwords_differ_and_are_stable() -> None:
    def passwords(done: str) -> list[str]:
        secrets = [one for one in load_objects(done) if one["kind"] == "Secret"]
        values = [value for secret in secrets for value in secret_values(secret)]
        return [word for value in values for word in re.findall(r"(?:^|:)([0-9a-f]{32})(?:@|$)", value)]

    first, again = (passwords(template(MATRIX["dev"]).stdout) for _ in range(2))
    other = passwords(template(MATRIX["dev"], "--set", "devServices.password=another1another1").stdout)
    assert len(set(first)) >= 10
    assert first == again
    assert not set(first) & set(other)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Helm renders notes only during an installation, so this renders them as an object."""
    chart = shutil.copytree(CHART, tmp_path_factory.mktemp("chart") / "darkroom")
    shutil.copy(chart / "templates" / "NOTES.txt", chart / "files" / "notes.txt")
    (chart / "templates" / "notes.yaml").write_text('text: {{ tpl (.Files.Get "files/notes.txt") . | toJson }}')

    def render(name: str, *more: str) -> str:
        chosen = [word for file in MATRIX[name] for word in ("--values", str(CHART / file))]
        done = helm("template", "pictures", str(chart), "--namespace", NAMESPACE, *chosen, *more,
                    "--set", f"devServices.password={PASSWORD}", "--show-only", "templates/notes.yaml")  # fmt: skip
        return str(yaml.safe_load(done.stdout)["text"])

    return render


def test_the_notes_name_only_what_is_there(notes: Callable[..., str]) -> None:
    less = "test.enabled=false,migration.enabled=false,training.profiles.gpu=null,training.profiles.submitter=null"
    text = notes("least", "--set", f"{less},workerDefaults.gpu.claimTemplate=a-gpu")
    for gone in ("helm test", "--profile ", "migration.attempt", "nvidia.com/gpu"):
        assert gone not in text
    assert "each with the GPU of a-gpu" in text
    assert "darkroom-database: publisher\n" in text
    assert "--profiles profiles.yaml --profile gpu=gpu --profile smoke=submitter\n" in notes("least")


@pytest.mark.parametrize("name", MATRIX)
def test_the_notes_list_every_secret_that_pipelines_need(name: str, notes: Callable[..., str]) -> None:
    text = notes(name)
    assert f"is in namespace {NAMESPACE}" in text
    assert "darkroom-database: publisher, submitter" in text
    assert ("https://images.example.com/sign-in/callback" in text) == (name == "hook")
    for pod in pods(name):
        if pod.component == "worker":
            assert pod.metadata["labels"]["darkroom/pool"] in text
