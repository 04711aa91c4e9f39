"""The YAML of a package, as the backend of Kubeflow Pipelines reads it.

The backend is written in Go, whose YAML library reads `1e3`, `0o17` and `y` as a number, a number and a boolean. KFP's
compiler writes with PyYAML, for which they are text that needs no quotes. The backend would refuse the package.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

NOT_TEXT_IN_GO = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$|[-+]?0o[0-7]+$|[yYnN]$")


@contextmanager
def quoted_for_go() -> Iterator[None]:
    """Let PyYAML put in quotes what Go would not read as text."""
    kept = yaml.Dumper.yaml_implicit_resolvers
    yaml.Dumper.yaml_implicit_resolvers = {first: list(resolvers) for first, resolvers in kept.items()}
    yaml.Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NOT_TEXT_IN_GO, list("-+.0123456789yYnN"))
    try:
        yield
    finally:
        yaml.Dumper.yaml_implicit_resolvers = kept
