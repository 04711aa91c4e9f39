"""Finds words that the names of images begin with, as in cat.1.jpg and dog.1.jpg: they may be meant as classes."""

import posixpath
import re
from collections import Counter
from collections.abc import Collection

NUMBER = re.compile(r"(.*[^\W\d_].*?)[-_. (]*\d+\)?")
SHARE = 0.95  # of the images that must have such a name
MEMBERS = 2  # images of each word, on average


def name_groups(images: Collection[str]) -> dict[str, int]:
    """Return how many images begin with each word before a number; empty if they do not fall into groups."""
    stems = (posixpath.splitext(posixpath.basename(name))[0] for name in images)
    groups = Counter(match[1] for stem in stems if (match := NUMBER.fullmatch(stem)))
    few = 1 < len(groups) <= len(images) / MEMBERS
    return dict(sorted(groups.items())) if few and groups.total() >= SHARE * len(images) else {}
