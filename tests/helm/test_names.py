"""Names that YAML reads as something else, names of releases, shared accounts and Secrets, and what is given twice."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kfp_pipelines.profiles import Profile
from tests.support.chart import CHART, HERE, MATRIX, PASSWORD, helm, load_objects, pods_of, template
from tests.support.rendered import find_unconnected, wrong_with, wrong_with_pods

NUMBERS = "secretsVersion=20261127,migration.attempt=1732730000"
DEV = f"devServices.password={PASSWORD}"
Objects = list[dict[str, Any]]


def named(objects: Objects, kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


@pytest.fixture(scope="module")
def odd() -> Objects:
    values = ["--values", str(HERE / "odd-names.yaml"), "--set", DEV]
    return load_objects(helm("template", "2024", str(CHART), "--namespace", "123", *values).stdout)


def test_every_name_stays_text(odd: Objects) -> None:
    assert [line for one in odd for line in wrong_with(one)] == []
    assert [*wrong_with_pods(odd), *find_unconnected(odd)] == []


def test_one_secret_can_hold_the_urls_of_everything(odd: Objects) -> None:
    of_release, of_runs = (one for one in odd if one["kind"] == "Secret" and one["metadata"]["name"] == "0x1f")
    assert set(of_release["data"]) == {"1", "2", "true", "null", "3", "4", "5", "6", "on", "yes", "no"}
    assert set(of_runs["data"]) == {"5", "6", "yes", "no"}, "pipelines get no other login"


def test_profiles_have_the_login_that_the_database_s_values_name(odd: Objects) -> None:
    profiles = yaml.safe_load(named(odd, "ConfigMap")["e1-training-profiles"]["data"]["profiles.yaml"])
    store = {"yes": "DARKROOM_S3_ACCESS_KEY_ID", "no": "DARKROOM_S3_SECRET_ACCESS_KEY"}
    assert profiles["gpu"]["secrets"] == {"0x1f": {"5": "DARKROOM_DATABASE_URL", **store}}
    assert profiles["submitter"]["secrets"] == {"0x1f": {"6": "DARKROOM_DATABASE_URL", **store}}
    assert [Profile.model_validate(profile).env["DARKROOM_S3_BUCKET"] for profile in profiles.values()] == ["123"] * 3


def test_a_profile_s_own_variables_take_precedence() -> None:
    """A variable that is given twice would have the value that happens to come last."""
    own: dict[str, Any] = {
        "env": {"DARKROOM_S3_REGION": "own", "DARKROOM_S3_ACCESS_KEY_ID": "own"},
        "secrets": {"own": {"url": "DARKROOM_DATABASE_URL", "bucket": "DARKROOM_S3_BUCKET"}},
        "databaseRole": "publisher",
        "cpu": 4,
    }
    values = {"training": {"profiles": {"own": own}}, "objectStore": {"existingSecret": "s3", "bucket": "pictures"}}
    done = template(MATRIX["least"], "--set-json", ",".join(f"{key}={json.dumps(one)}" for key, one in values.items()))
    made = named(load_objects(done.stdout), "ConfigMap")["pictures-darkroom-training-profiles"]
    profile = Profile.model_validate(yaml.safe_load(made["data"]["profiles.yaml"])["own"])
    assert profile.env == own["env"]
    assert profile.secrets == {**own["secrets"], "s3": {"secret-access-key": "DARKROOM_S3_SECRET_ACCESS_KEY"}}
    assert profile.cpu == "4"


def test_components_share_an_account_with_the_annotations_of_all(odd: Objects) -> None:
    accounts = named(odd, "ServiceAccount")
    assert accounts["8"]["metadata"]["annotations"]["a"] == "7", "of the pool"
    assert accounts["e1-test"]["metadata"]["annotations"]["a"] == "6"
    used = {pod.component: pod.spec.get("serviceAccountName") for pod in pods_of(odd)}
    assert (used["test"], used["worker"], used["console"]) == ("e1-test", "8", "5")


def test_a_number_is_the_same_text_however_it_is_given(odd: Objects, tmp_path: Path) -> None:
    """Helm keeps the values of a release as JSON: the pods of the next upgrade would have another annotation."""
    (tmp_path / "values.yaml").write_text("secretsVersion: 20261127\nmigration: {attempt: 1732730000}\n")
    given = (
        ["--values", str(tmp_path / "values.yaml")],
        ["--set", NUMBERS],
    )
    first, again = (load_objects(template(MATRIX["least"], *words).stdout) for words in given)
    assert first == again
    assert {pod.metadata["annotations"]["darkroom/secrets-version"] for pod in pods_of(first)} == {"20261127"}


def test_a_release_may_have_dots_in_its_name() -> None:
    files = [f"--values={CHART / file}" for file in MATRIX["least"]]
    done = helm("template", "team.pictures.2024-prod.europe-west4.b", str(CHART), *files,
                "--set", f"devServices.enabled=true,{DEV}")  # fmt: skip
    assert [line for one in load_objects(done.stdout) for line in wrong_with(one)] == []


def test_names_that_no_object_could_have_are_refused() -> None:
    files = [f"--values={CHART / file}" for file in MATRIX["least"]]
    values = ("devServices.enabled=true,console.enabled=true,console.hosts={10.0.0.1},console.ingress.enabled=true,"
        "metrics.port=8520,"
              "dispatcher.serviceAccount.create=false,exporter.serviceAccount.name=a,retention.serviceAccount.name=a,"
              "exporter.serviceAccount.annotations.role=one,retention.serviceAccount.annotations.role=two")  # fmt: skip
    done = helm("template", "2024", str(CHART), *files, "--set", f"{values},{DEV}", check=False)
    for message in (
        'fullnameOverride: must be given, beginning with a letter, because "2024-darkroom" would begin the name',
        "console.hosts: 10.0.0.1 is an address; permitted with ingress.enabled or gateway.parentRefs: names",
        "metrics.port: 8520 is the port of the console's pages; permitted: another",
        "dispatcher.serviceAccount: create false needs name, the account that the pods use",
        "retention.serviceAccount: annotations.role two differs from one, which another component gives the account a",
    ):
        assert message in done.stderr
    assert 'nameOverride: "pictures-Ab" cannot begin the names' in template(
        MATRIX["least"], "--set", "nameOverride=Ab", check=False).stderr  # fmt: skip


MOUNT = "podDefaults.extraVolumeMounts[0].mountPath"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("podDefaults.extraEnv[0].name=A,podDefaults.extraEnv[1].name=A", "extraEnv: two variables of container check"),
        ("podDefaults.extraVolumes[0].name=tmp", "extraVolumes: two volumes of the pod have the name tmp"),
        (f"podDefaults.extraVolumeMounts[0].name=tmp,{MOUNT}=/tmp", "two mounts of container check have the mountPath"),
        (f"podDefaults.extraVolumeMounts[0].name=a,{MOUNT}=/a", "a of container check is not among the volumes of"),
        ("podDefaults.hostAliases[0].ip=1.1.1.1,dispatcher.hostAliases[0].ip=1.1.1.1", "two entries have the ip 1.1."),
    ],
)
def test_what_a_pod_would_have_twice_is_refused(given: str, message: str) -> None:
    assert message in template(MATRIX["least"], "--set", given, check=False).stderr


def test_what_kubernetes_never_permits_is_refused_by_the_schema() -> None:
    toleration = "dispatcher.tolerations[0]"
    values = ("nameOverride=a b,commonLabels.a=-,podDefaults.podLabels.b=c d,workerDefaults.shm=1K,"
              "workerDefaults.rollout.maxSurge=1000000,migration.ttlSeconds=3000000000,"
              f"{toleration}.operator=Exists,{toleration}.value=a,exporter.tolerations[0].operator=Equal,"
              "console.tolerations[0].key=a,console.tolerations[0].tolerationSeconds=5")  # fmt: skip
    done = template(MATRIX["least"], "--set", values, "--set-json", "networkPolicy.identity.ports=[]", check=False)
    for path in ("nameOverride", "commonLabels/a", "podDefaults/podLabels/b", "workerDefaults/shm",
                 "migration/ttlSeconds", "workerDefaults/rollout/maxSurge", "networkPolicy/identity/ports",
                 "dispatcher/tolerations/0/value",
                 "exporter/tolerations/0", "console/tolerations/0"):  # fmt: skip
        assert f"at '/{path}'" in done.stderr, done.stderr


def test_users_and_dns_can_be_left_to_the_cluster() -> None:
    """As docs/operations.md says of OpenShift, which gives pods a user of the namespace's range."""
    ids = {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}
    done = template(MATRIX["least"], "--set-json", json.dumps({**ids, "networkPolicy": {"dns": {"ports": [5353]}}}))
    found = load_objects(done.stdout)
    assert "65532" not in done.stdout
    assert all(pod.spec["securityContext"]["runAsNonRoot"] for pod in pods_of(found))
    policies = [one for one in found if one["kind"] == "NetworkPolicy"]
    assert all({"port": 5353, "protocol": "UDP"} in one["spec"]["egress"][0]["ports"] for one in policies)


def test_large_quantities_are_compared() -> None:
    template(MATRIX["least"], "--set", "workerDefaults.resources.limits.memory=1Pi")
