"""The images: every package is pinned with its hashes, and what runs in them is there. Nothing here needs Docker."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PINNED = re.compile(
    r"^([A-Za-z0-9._-]+)==(\S+?)(?: ;[^\\\n]*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M
)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(image: str) -> dict[str, str]:
    """Return the version of each package of requirements/IMAGE.txt; every line must have hashes."""
    text = (ROOT / "requirements" / f"{image}.txt").read_text()
    found = {canonical(name): version for name, version, _ in PINNED.findall(text)}
    assert len(found) == len(re.findall(r"^[A-Za-z0-9]", text, re.M)), "a line without hashes"
    return found


def stage(name: str) -> str:
    """Return the instructions of a stage of the Dockerfile."""
    found = re.search(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    assert found
    return found[1]


@pytest.mark.parametrize("image", ["slim", "full", "build", "backend"])
def test_packages_have_the_versions_that_are_tested(image: str) -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    tested = {canonical(name): version for name, version in (line.split("==") for line in lines)}
    images = pinned(image)
    assert {name: images[name] for name in images.keys() & tested} == {
        name: tested[name] for name in images.keys() & tested
    }


def test_each_image_has_what_the_project_needs_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(of: list[str]) -> set[str]:
        return {canonical(re.split(r"[\[<>=;]", one)[0]) for one in of} - {"darkroom"}

    assert names(project["dependencies"]) <= pinned("slim").keys()
    assert "torch" not in pinned("slim")
    needed = [*project["dependencies"], *extras["worker"], *extras["training"], *extras["pipelines"], *extras["text"]]
    assert names(needed) <= pinned("full").keys()


def test_the_images_install_nothing_that_is_not_pinned() -> None:
    for command in re.findall(r"pip (?:install|wheel) [^\n&]*", DOCKERFILE):
        # Without one of these, pip builds what is published as source with the newest setuptools.
        fixed = "--only-binary :all:" in command or "--no-build-isolation" in command or "backend.txt" in command
        assert "--no-deps" in command or ("--require-hashes" in command and fixed), command
    assert "pip wheel --no-deps --no-build-isolation" in stage("build")
    assert pinned("backend")["setuptools"] == pinned("full")["setuptools"] == pinned("build")["setuptools"]


def test_every_download_of_packages_can_use_a_mirror() -> None:
    """Its address and password are a secret of the build, which is in no layer."""
    for command in re.findall(r"^RUN (?:.*\\\n)*.*", DOCKERFILE, re.M):
        assert ("--require-hashes" in command) == ("--mount=type=secret,id=pip.conf" in command), command
    for image in ("build", "slim", "full"):
        assert "PIP_CONFIG_FILE=/run/secrets/pip.conf" in stage(image)
    cuda = re.findall(r"^ARG CUDA=(\S+)", DOCKERFILE, re.M)[0]
    bases = {base.replace("${CUDA}", cuda) for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)}
    documented = re.findall(r"--build-context (\S+)=", (ROOT / "docs/operations.md").read_text())
    assert set(documented) == bases


def test_cuda_is_of_one_generation() -> None:
    """A base of another generation than torch permits drivers on which torch does not work."""
    (base,) = re.findall(r"^ARG CUDA=([0-9]+\.[0-9]+)", DOCKERFILE, re.M)
    packages = pinned("full")
    assert packages["nvidia-cuda-runtime"].startswith(f"{base}.")
    generations = {name.rsplit("-cu", 1)[1] for name in packages if re.search(r"^nvidia-.*-cu[0-9]+$", name)}
    assert generations == {base.split(".")[0]}


def test_the_image_of_workers_has_what_compiling_a_model_needs() -> None:
    """torch.compile and Triton call a compiler, and include Python.h."""
    words = set(stage("full").split())
    assert {"gcc", "g++", "libc6-dev", "python3.12-dev"} <= words
    assert "gcc" not in stage("slim").split()


@pytest.mark.parametrize("image", ["slim", "full"])
def test_an_image_says_what_it_is_and_what_it_contains(image: str) -> None:
    text = stage(image)
    for label in ("title", "description", "licenses", "version", "base.name", "revision"):
        assert f'org.opencontainers.image.{label}="' in text
    assert f"{image}.cdx.json /usr/share/doc/darkroom/sbom.cdx.json" in text
    assert "USER 65532:65532" in text


def test_docker_is_sent_what_the_dockerfile_copies() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M) for name in line.split()}
    assert {name.split("/")[0] for name in copied} == sent
