"""The chart renders objects that an API server accepts, with every set of values."""

import re
import warnings
from collections import Counter
from typing import Any

import kubernetes_validate
import pytest
from yamllint import linter
from yamllint.config import YamlLintConfig

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
    template,
    text,
)

every = pytest.mark.parametrize("name", MATRIX)
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
# Only rules about YAML that would be read differently than it looks, none about style.
LINT = YamlLintConfig("""
extends: default
rules: {line-length: disable, document-start: disable, braces: disable, comments: {min-spaces-from-content: 1},
        indentation: {indent-sequences: whatever}, truthy: {check-keys: false}, octal-values: enable}
""")


@pytest.fixture(scope="module")
def custom_kinds() -> dict[str, Any]:
    """Return models of custom resources, whose import takes seconds, which only this process of the tests pays."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

    return {kind.__name__: kind for kind in (ScaledObject, TriggerAuthentication, PodMonitor, PrometheusRule)}


@every
@pytest.mark.parametrize("version", ["1.30", "1.33", "1.36"])
def test_objects_match_their_schemas(name: str, version: str, custom_kinds: dict[str, Any]) -> None:
    for one in objects(name):
        if one["kind"] in custom_kinds:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # from cloudcoil's serializer
                custom_kinds[one["kind"]].model_validate(one)
        else:
            kubernetes_validate.validate(one, version, strict=True)


@every
def test_yaml_is_unambiguous(name: str) -> None:
    problems = [str(one) for one in linter.run(text(name), LINT) if one.rule != "empty-lines"]
    assert [one for one in problems if "trailing spaces" not in one] == []


@every
def test_helm_lint_passes(name: str) -> None:
    chosen = [word for file in MATRIX[name] for word in ("--values", str(CHART / file))]
    helm("lint", "--strict", str(CHART), *chosen, "--set", f"devServices.password={PASSWORD}")


@every
def test_two_renderings_are_identical(name: str) -> None:
    assert template(MATRIX[name]).stdout == text(name)


@every
def test_an_upgrade_changes_no_selector_and_no_job(name: str) -> None:
    def fixed(of: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            f"{one['kind']}/{one['metadata']['name']}": one["spec"].get("selector", one["spec"])
            for one in of
            if one["kind"] in ("Deployment", "StatefulSet", "Job")
        }

    assert fixed(objects(name)) == fixed(objects(name, upgrade=True))


def test_a_new_image_gets_a_new_migration_job() -> None:
    def job_names(*more: str) -> set[str]:
        found = load_objects(template(MATRIX["least"], *more).stdout)
        return {one["metadata"]["name"] for one in found if one["kind"] == "Job"}

    assert job_names() == job_names("--set", "dispatcher.replicas=5")
    assert not job_names() & job_names("--set", "slimImage.tag=another")


def test_a_migration_that_failed_runs_again_with_another_attempt_and_leaves_nothing() -> None:
    """A Job that has failed does not run again, and an upgrade with the same values changes nothing."""

    def job(*more: str) -> dict[str, Any]:
        found = load_objects(template(MATRIX["least"], *more).stdout)
        return next(one for one in found if one["kind"] == "Job")

    first, again = job(), job("--set-string", "migration.attempt=1764202000")
    assert first["metadata"]["name"] != again["metadata"]["name"]
    assert first["spec"] == again["spec"]
    assert again["spec"]["ttlSecondsAfterFinished"] == 86400
    hook = job("--set", "migration.hook=true", "--is-upgrade")["metadata"]["annotations"]
    assert hook["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"


@every
def test_names_are_unique_and_objects_are_labelled(name: str) -> None:
    names = Counter((one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects(name))
    assert {key: count for key, count in names.items() if count > 1} == {}
    for one in objects(name):
        assert len(one["metadata"]["name"]) <= 63
        if one["metadata"]["name"] in ("pictures-more", "pictures-of-a-team-text"):
            continue  # from extraObjects
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "pictures"
        assert all(LABEL.fullmatch(str(value)) and isinstance(value, str) for value in labels.values())
        assert one["metadata"]["namespace"] in (NAMESPACE, "pictures")


def test_a_long_release_name_still_fits() -> None:
    long = "a" * 53  # the longest name that helm accepts
    done = helm("template", long, str(CHART), *(f"--values={CHART / file}" for file in MATRIX["least"]),
                "--set", "workerPools.pool-of-20-lettersxx.replicas=1")  # fmt: skip
    for one in load_objects(done.stdout):
        limit = 52 if one["kind"] == "CronJob" else 63
        assert len(one["metadata"]["name"]) <= limit, one["metadata"]["name"]


@every
def test_every_selector_matches_exactly_its_own_pods(name: str) -> None:
    found = {pod.name: pod.metadata["labels"] for pod in pods(name)}

    def chosen(labels: dict[str, str]) -> set[str]:
        return {owner for owner, has in found.items() if labels.items() <= has.items()}

    for one in of_kind(name, "Deployment", "StatefulSet"):
        name_of_pods = f"{one['kind']}/{one['metadata']['name']}"
        assert chosen(one["spec"]["selector"]["matchLabels"]) == {name_of_pods}
    for one in of_kind(name, "PodDisruptionBudget"):
        assert chosen(one["spec"]["selector"]["matchLabels"]) == {f"Deployment/{one['metadata']['name']}"}
    for one in of_kind(name, "Service"):
        assert chosen(one["spec"]["selector"]) in (
            {f"{kind}/{one['metadata']['name']}"} for kind in ("Deployment", "StatefulSet")
        )
    covered: set[str] = set()
    for one in of_kind(name, "NetworkPolicy"):
        mine = chosen(one["spec"]["podSelector"]["matchLabels"])
        assert mine or one["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] in (
            "exporter",
            "retention",
        )
        covered |= mine
    assert covered == (set(found) if of_kind(name, "NetworkPolicy") else set())


@every
def test_every_reference_resolves(name: str) -> None:
    there = {(one["kind"], one["metadata"]["name"]) for one in objects(name)}
    external = set()
    for pod in pods(name):
        account = pod.spec.get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in there, pod.name
        for container in pod.containers:
            for variable in container.get("env", ()):
                if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
                    external.add(secret["name"])
        for volume in pod.spec.get("volumes", ()):
            if "configMap" in volume:
                external.add(volume["configMap"]["name"])
            if "secret" in volume:
                external.add(volume["secret"]["secretName"])
    for one in of_kind(name, "ScaledObject"):
        assert ("Deployment", one["spec"]["scaleTargetRef"]["name"]) in there
        for trigger in one["spec"]["triggers"]:
            assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in there
    names = ("broker", "console", "database", "hmac", "s3")
    given = {*(f"darkroom-{name}" for name in names), "keys", "company-ca"}
    made = {name for kind, name in there if kind == "Secret"}
    assert external <= (made if name == "dev" else made | given)
    # The chart creates no unused service account.
    used = {pod.spec.get("serviceAccountName") for pod in pods(name)}
    accounts = {one["metadata"]["name"] for one in of_kind(name, "ServiceAccount")}
    assert {one for one in accounts - used if not one.endswith("-pipelines")} - {None} <= (
        {"pictures-darkroom-migration"} if not any(pod.component == "migration" for pod in pods(name)) else set()
    )
