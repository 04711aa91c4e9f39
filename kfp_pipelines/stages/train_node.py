"""What every rank of a train job runs: `torchrun -m kfp_pipelines.stages.train_node s3://BUCKET/PREFIX`.

The ranks of a node share its disk; the inputs are fetched once a node. The first rank of all writes the result.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from kfp_pipelines.stages import training
from kfp_pipelines.train_job import exchange
from services.settings import load_store
from services.storage.object_store import ObjectStore
from services.storage.uri import ObjectUri
from training.data.locks import lock_folder
from training.errors import DarkroomError


def run(prefix_uri: str) -> None:
    """Fetch, train, and where this is the first rank lay the result beside the inputs."""
    uri = ObjectUri.parse(prefix_uri)
    assert uri is not None
    store, prefix = ObjectStore.connect(load_store(), uri.bucket), uri.key
    stage = json.loads(store.get(f"{prefix}/{exchange.STAGE}"))
    folder = Path(tempfile.gettempdir()) / Path(prefix).name
    fetched = folder / "fetched"
    with lock_folder(folder):
        if not fetched.is_file():
            exchange.download(store, f"{prefix}/{exchange.INPUTS}", folder / exchange.INPUTS)
            fetched.touch()
    inputs = {field: str(folder / exchange.INPUTS / name) for field, name in stage["inputs"].items()}
    output = folder / exchange.TRAINING
    training.train(stage["experiment"], stage["overrides"], inputs, output, stage["checkpoints"])
    if os.environ.get(training.RANK, "0") == "0":
        for part in output.iterdir():
            if part.is_dir() and part.name not in training.WORKINGS:
                exchange.upload(store, part, f"{prefix}/{exchange.TRAINING}/{part.name}")
            elif part.is_file():
                store.upload(f"{prefix}/{exchange.TRAINING}/{part.name}", part)
        store.put(f"{prefix}/{exchange.DONE}", b"", content_type="text/plain")


def main() -> int:
    """The command. A mistake is one line on standard error and exit code 2."""
    try:
        run(sys.argv[1])
    except DarkroomError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
