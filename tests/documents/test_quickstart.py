"""The quick start on a cluster names objects that its installation of the chart creates."""

import base64
import re
import subprocess
from typing import Any

import pytest

from tests.support.chart import PASSWORD, ROOT, helm, load_objects

REGISTRY = "registry.example.com/team"
PAGE = (ROOT / "docs" / "quickstart.md").read_text()


@pytest.fixture(scope="module")
def objects() -> dict[str, dict[str, Any]]:
    """Return the objects that the page's `helm install` renders, by kind/name."""
    (command,) = re.findall(r"^    helm install (.+)$", PAGE, re.MULTILINE)
    arguments = command.replace("REGISTRY", REGISTRY).replace("PASSWORD", PASSWORD).split()
    rendered = load_objects(helm("template", *arguments).stdout)
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in rendered}


def test_each_service_of_a_port_forward_has_the_port(objects: dict[str, dict[str, Any]]) -> None:
    forwards = re.findall(r"port-forward .*service/(\S+) \d+:(\d+)", PAGE)
    assert len(forwards) == 2
    for name, port in forwards:
        assert int(port) in [one["port"] for one in objects[f"Service/{name}"]["spec"]["ports"]]


def test_each_secret_has_the_key(objects: dict[str, dict[str, Any]]) -> None:
    reads = re.findall(r"\$\(secret (\S+) ([a-z-]+)", PAGE)
    assert len(reads) == 4
    for name, key in reads:
        assert key in objects[f"Secret/{name}"]["data"]


def test_images_come_from_the_registry_of_the_page(objects: dict[str, dict[str, Any]]) -> None:
    built = re.findall(r"docker build -t (\S+)", PAGE)
    assert len(built) == 2
    text = str(objects)
    for image in built:
        assert f"'{image.replace('REGISTRY', REGISTRY)}'" in text


def test_the_host_of_a_url_is_replaced_by_the_forwarded_port(objects: dict[str, dict[str, Any]]) -> None:
    (script,) = set(re.findall(r"sed '(.+?)'", PAGE))
    url = base64.b64decode(objects["Secret/darkroom-database"]["data"]["publisher"])
    replaced = subprocess.run(["sed", script], input=url, capture_output=True, check=True).stdout.decode()
    assert re.fullmatch(r"postgresql://[^:]+:[^@]+@127\.0\.0\.1:15432/darkroom", replaced)
