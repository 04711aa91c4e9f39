"""A pod with several accelerators trains on all of them: Lightning starts a process for each."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.support import fork_server
from tests.support.stack import Stack
from training.data import image_set
from training.model import release

pytestmark = pytest.mark.long

OVERRIDES = ["batch_size=8", "device=cpu", "steps=2", "data=images", "data.image_size=32", "pictures_every=100",
             "model.channels=32", "model.multipliers=[1,1]", "model.res_blocks=1", "model.middle_attention=false",
             "loss.adversarial_weight=0", "checkpoint.every_steps=1"]  # fmt: skip
# As KFP runs a stage: Lightning starts this program again for the second accelerator.
PROGRAM = """
import sys
from pathlib import Path
from kfp_pipelines.stages import entry
if __name__ == "__main__":
    output, images, *overrides = sys.argv[1:]
    entry.train("shapes_autoencoder", overrides, {"data.root": images}, output, "s3://BUCKET/checkpoints/devices",
                f"{output}.html")
    with open(f"{output}.ends", "a") as ends:
        print(entry.rank(), file=ends)
"""


def test_two_accelerators_of_a_pod_train_together_and_one_reports(stack: Stack, tmp_path: Path) -> None:
    """The second process takes no lock on the checkpoints, which the first holds, and writes no result."""
    rng = np.random.default_rng(0)
    images = np.repeat(np.repeat(rng.integers(0, 255, (16, 4, 4, 3)), 8, axis=1), 8, axis=2).astype(np.uint8)
    records = [{"name": f"{i}", "label": 0} for i in range(16)]
    image_set.write(tmp_path / "scenes", name="scenes", images=images, records=records, train_count=12)
    program = tmp_path / "stage.py"
    program.write_text(PROGRAM.replace("BUCKET", stack.store().bucket))
    log = tmp_path / "stage.log"
    environment = {**os.environ, "DARKROOM_ROOT": str(stack.root), "DARKROOM_ACCELERATORS": "2", "OMP_NUM_THREADS": "1"}
    code = "import runpy, sys; sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    arguments = [str(program), str(tmp_path / "out"), str(tmp_path / "scenes"), *OVERRIDES]
    stage = fork_server.server(fork_server.TRAINING).start(code, arguments, log, environment)
    assert stage.wait(240) == 0, log.read_text()[-2000:]
    assert "waiting for another process of this run" not in log.read_text()
    assert release.read(tmp_path / "out" / "release").kind == "autoencoder"
    assert (tmp_path / "out.ends").read_text() == "0\n"
    assert "devices: 2" in (tmp_path / "out" / "config.yaml").read_text()
