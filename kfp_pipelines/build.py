"""The code that made a release: the git commit, and the image that stages run."""

import os
import subprocess
from pathlib import Path

COMMIT_VARIABLE = "DARKROOM_COMMIT"  # set in the image when it is built
IMAGE_VARIABLE = "DARKROOM_IMAGE"  # set by the user, and on the pods of stages
DEFAULT_IMAGE = "darkroom:0.2.0"
USER = 65532  # of the image, and its group
ACCELERATORS_VARIABLE = "DARKROOM_ACCELERATORS"  # set on the pods of stages that have several


def image() -> str:
    """Return the image that stages run: DARKROOM_IMAGE, or the default."""
    return os.environ.get(IMAGE_VARIABLE, DEFAULT_IMAGE)


def commit() -> str:
    """Return 12 digits of the git commit: of DARKROOM_COMMIT, else of the checkout, else `unknown`."""
    if value := os.environ.get(COMMIT_VARIABLE):
        return value[:12]
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()[:12]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def origin_of(run: str) -> dict[str, str]:
    """Return what is recorded with a release that this process publishes: pipeline run, commit and image."""
    return {"run": run, "commit": commit(), "image": os.environ.get(IMAGE_VARIABLE, "")}
