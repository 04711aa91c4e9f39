"""What every rank of a train job runs: `torchrun -m kfp_pipelines.train_node s3://BUCKET/PREFIX`.

The ranks of a node share its disk; the inputs are fetched once a node. The first rank of all writes the result.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from kfp_pipelines import stages, train_job
from services.object_store import ObjectStore
from services.settings import load_store
from training.data.locks import locked
from training.train import MISTAKES


def run(exchange: str) -> None:
    """Fetch, train, and where this is the first rank lay the result beside the inputs."""
    bucket, _, prefix = exchange.removeprefix(stages.S3).partition("/")
    store = ObjectStore.connect(load_store(), bucket)
    stage = json.loads(store.get(f"{prefix}/{train_job.STAGE}"))
    folder = Path(tempfile.gettempdir()) / Path(prefix).name
    fetched = folder / "fetched"
    with locked(folder):
        if not fetched.is_file():
            train_job.download(store, f"{prefix}/{train_job.INPUTS}", folder / train_job.INPUTS)
            fetched.touch()
    inputs = {field: str(folder / train_job.INPUTS / name) for field, name in stage["inputs"].items()}
    output = folder / train_job.TRAINING
    stages.train(stage["experiment"], stage["overrides"], inputs, output, stage["checkpoints"])
    if os.environ.get(stages.RANK, "0") == "0":
        for part in output.iterdir():
            if part.is_dir() and part.name not in stages.WORKINGS:
                train_job.upload(store, part, f"{prefix}/{train_job.TRAINING}/{part.name}")
            elif part.is_file():
                store.upload(f"{prefix}/{train_job.TRAINING}/{part.name}", part)
        store.put(f"{prefix}/{train_job.DONE}", b"", content_type="text/plain")


def main() -> int:
    """The command. A mistake is one line on standard error and exit code 2."""
    try:
        run(sys.argv[1])
    except MISTAKES as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
