"""Which code made something: the git commit and the image that stages run from."""

import os
import subprocess
from pathlib import Path

# Set in the image when it is built, and on the pods of stages.
COMMIT_VARIABLE, IMAGE_VARIABLE = "DARKROOM_COMMIT", "DARKROOM_IMAGE"
DEFAULT_IMAGE = "darkroom:0.2.0"


def image() -> str:
    """Return the image that stages run: DARKROOM_IMAGE, or the default."""
    return os.environ.get(IMAGE_VARIABLE, DEFAULT_IMAGE)


def commit() -> str:
    """The first twelve digits of the git commit: DARKROOM_COMMIT, else the checkout's, else `unknown`."""
    if found := os.environ.get(COMMIT_VARIABLE):
        return found[:12]
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()[:12]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def of_run(run: str) -> dict[str, str]:
    """What is written beside a release that this process publishes."""
    return {"run": run, "commit": commit(), "image": os.environ.get(IMAGE_VARIABLE, "")}
