"""The chart, rendered by helm with many value files."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "darkroom"
HELM = Path(sys.prefix, "bin", "helm")
NAMESPACE = "images"
PASSWORD = "abcdefgh12345678"
HERE = ROOT / "tests/helm/values"

# The chart's example values, and values for what these leave out.
MATRIX = {
    "aws": ["examples/aws.yaml"],
    "gcp": ["examples/gcp.yaml"],
    "on-prem": ["examples/on-prem.yaml"],
    "dev": ["examples/dev.yaml"],
    "least": [str(HERE / "least.yaml")],
    "hook": [str(HERE / "least.yaml"), str(HERE / "hook.yaml")],
    "everything": [str(HERE / "least.yaml"), str(HERE / "everything.yaml")],
}


def helm(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run helm without a cluster and without the user's configuration."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/dev/null", "GOGC": "off"}
    done = subprocess.run([str(HELM), *arguments], capture_output=True, text=True, check=False, env=environment)
    assert not check or done.returncode == 0, done.stderr
    return done


def template(files: list[str], *more: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run `helm template` with value files of the chart."""
    chosen = [word for name in files for word in ("--values", str(CHART / name))]
    dev = ["--set", f"devServices.password={PASSWORD}"]
    return helm("template", "pictures", str(CHART), "--namespace", NAMESPACE, *chosen, *dev, *more, check=check)


@cache
def text(name: str, upgrade: bool = False) -> str:
    """Return the manifests of an entry of MATRIX as text."""
    return template(MATRIX[name], *(["--is-upgrade"] if upgrade else [])).stdout


class StrictLoader(yaml.CSafeLoader):
    """Refuses a mapping with a key that is there twice, as kubectl does. The parser in C is ten times faster."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping. Raises ConstructorError if it has a key twice."""
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.constructor.ConstructorError("while reading a mapping", node.start_mark, "a key is there twice")
        return found


def load_objects(manifests: str) -> list[dict[str, Any]]:
    """Parse manifests."""
    return [one for one in yaml.load_all(manifests, StrictLoader) if one]


@cache
def objects(name: str, upgrade: bool = False) -> list[dict[str, Any]]:
    """Return the manifests of an entry of MATRIX as objects."""
    return load_objects(text(name, upgrade))


@dataclass(frozen=True)
class PodTemplate:
    """A pod's specification and the object that contains it."""

    owner: Mapping[str, Any]
    metadata: Mapping[str, Any]
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.owner['kind']}/{self.owner['metadata']['name']}"

    @property
    def component(self) -> str:
        return str(self.metadata["labels"]["app.kubernetes.io/component"])

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def main(self) -> dict[str, Any]:
        (container,) = self.spec["containers"]
        return dict(container)


def pods(name: str) -> Iterator[PodTemplate]:
    """Yield the template of every pod of an entry of MATRIX."""
    return pods_of(objects(name))


def pods_of(manifests: list[dict[str, Any]]) -> Iterator[PodTemplate]:
    """Yield the template of every pod that the manifests create."""
    for one in manifests:
        match one["kind"]:
            case "Deployment" | "StatefulSet" | "Job":
                template = one["spec"]["template"]
            case "CronJob":
                template = one["spec"]["jobTemplate"]["spec"]["template"]
            case "Pod":
                template = one
            case _:
                continue
        yield PodTemplate(one, template["metadata"], template["spec"])


def secret_values(secret: Mapping[str, Any]) -> list[str]:
    """Return the values of a Secret as text."""
    return [base64.b64decode(value).decode() for value in secret["data"].values()]


def of_kind(name: str, *kinds: str) -> list[dict[str, Any]]:
    """Return the objects of these kinds."""
    return [one for one in objects(name) if one["kind"] in kinds]
