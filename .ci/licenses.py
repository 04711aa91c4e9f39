"""Write the table of docs/licenses.md, or check it: every package of constraints.txt with its licence.

    python .ci/licenses.py            write the table
    python .ci/licenses.py --check    exit code 1 if the table is out of date

A licence is what the installed package's metadata declares. A package that is not installed in the pinned version (an
optional extra, a build of torch for another device) keeps the row that it has.
"""

import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licenses.md"
HEADER = "| package | licence |\n| --- | --- |\n"
CLASSIFIER = "License :: "


def pinned() -> dict[str, str]:
    """Return the version of each package that constraints.txt pins."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


def declared_licence(name: str) -> str:
    """Return the licence that an installed package declares: an expression, a short name, or its classifiers."""
    about = metadata.metadata(name)
    if expression := about["License-Expression"]:
        return str(expression)
    if (short := (about["License"] or "").strip()) and "\n" not in short and len(short) <= 40:
        return short
    classifiers = [one for one in about.get_all("Classifier") or [] if one.startswith(CLASSIFIER + "OSI Approved :: ")]
    return ", ".join(one.rsplit(" :: ", 1)[1] for one in classifiers) or "not declared"


def main(check: bool) -> int:
    """Write the table, or report how it differs from what is installed."""
    prose, found, table = PAGE.read_text(encoding="utf-8").partition(HEADER)
    if not found:
        raise SystemExit(f"{PAGE}: the header of the table is missing")
    old = dict(line.strip("| ").split(" | ") for line in table.splitlines())
    new = {}
    for name, version in pinned().items():
        try:
            is_pinned_version = metadata.version(name) == version
        except metadata.PackageNotFoundError:
            is_pinned_version = False
        if is_pinned_version or name not in old:
            new[name] = declared_licence(name)
        else:
            new[name] = old[name]
    if not check:
        PAGE.write_text(prose + HEADER + "".join(f"| {name} | {new[name]} |\n" for name in new), encoding="utf-8")
        return 0
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            print(f"docs/licenses.md: {name}: {old.get(name, 'no row')}; expected {new.get(name, 'no row')}")
    if old != new:
        print("Run `make licenses`.")
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main(check=sys.argv[1:] == ["--check"]))
