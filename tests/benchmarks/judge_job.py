"""The share of a job's images that a classifier recognises as the requested class.

    python tests/benchmarks/judge_job.py JOB_ID

The classifier is trained on the real training digits only. Its accuracy on held-out real digits is printed too.
"""

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.data import built_in
from training.metrics import DigitJudge
from training.model.pixels import to_unit


def darkroom(*arguments: str) -> str:
    """Return the standard output of a `darkroom` command."""
    command = [sys.executable, "-m", "services.cli", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(job_id: str) -> None:
    """Download and classify the images, and print the shares."""
    job = json.loads(darkroom("jobs", "show", job_id, "--json"))
    with tempfile.TemporaryDirectory() as folder:
        outputs = json.loads(darkroom("jobs", "outputs", job_id, "--download", folder, "--json"))
        bodies = [(Path(folder) / Path(row["key"]).name).read_bytes() for row in outputs]
        digits = built_in.prepare("digits", Path(folder) / "data")
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(body)))[:, :, None] for body in bodies])
    asked = torch.tensor([job["request"]["items"][row["item"]]["class_label"] for row in outputs])
    train, held_out = (
        (digits.pixels(rows), digits.labels(rows)) for rows in (digits.rows("train"), digits.rows("held_out"))
    )
    judge = DigitJudge(*train)
    print(f"images                                     {len(bodies)}, {len(set(bodies))} distinct")
    print(f"recognised as the class asked for          {judge.accuracy(to_unit(torch.from_numpy(pixels)), asked):.1%}")
    print(f"the judge on held-out real digits          {judge.accuracy(*held_out):.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
