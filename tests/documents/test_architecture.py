"""The tree in docs/architecture.md is the tree of the repository."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = ("services", "training", "kfp_pipelines", "migrations")


def paths_in_the_tree() -> list[Path]:
    """Return the path of each name in the tree; indentation says which folder a name is in."""
    (tree,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    folders: list[Path] = []
    paths = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.match(r"\s*((?:[\w/.]+(?:/|\.py)(?:\s+|$))+)", line)
        assert names is not None, line
        parent = folders[depth - 1] if depth else ROOT
        found = [parent / name for name in names[1].split()]
        folders[depth:] = found[:1]
        paths += found
    return paths


def test_every_name_in_the_tree_exists() -> None:
    assert [str(path.relative_to(ROOT)) for path in paths_in_the_tree() if not path.exists()] == []


def test_every_package_is_in_the_tree() -> None:
    packages = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("__init__.py")}
    assert packages - set(paths_in_the_tree()) == set()
