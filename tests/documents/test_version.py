"""One version, wherever it is written."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize(
    ("file", "pattern", "count"),
    [
        ("Dockerfile", r'image\.version="(.+)"', 2),
        ("Dockerfile", r"docker build -t \S+:(\S+)", 2),
        ("kfp_pipelines/build.py", r'"darkroom:(\S+)"', 1),
    ],
)
def test_the_image_has_the_version_of_the_package(file: str, pattern: str, count: int) -> None:
    assert re.findall(pattern, (ROOT / file).read_text()) == [VERSION] * count


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((ROOT / "helm" / "darkroom" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def test_the_citation_has_the_version_of_the_package() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == VERSION


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    newest, *_ = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest == VERSION
