"""The process of each rank of a TrainJob: `torchrun -m kfp_pipelines.stages.train_node s3://BUCKET/PREFIX`.

The ranks of a node share its disk, so one of them fetches the inputs. Rank 0 of all uploads the result.
"""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

from kfp_pipelines.stages import entry, training
from kfp_pipelines.train_job import exchange
from kfp_pipelines.train_job.node_logs import KeptOutput, log_key
from kfp_pipelines.train_job.progress import StatusServer, report_progress
from services.settings import load_store
from services.storage.object_store import ObjectStore
from services.storage.uri import ObjectUri
from training.commands import exit_code_of
from training.data.locks import lock_folder
from training.errors import DarkroomError


def run(store: ObjectStore, prefix: str, rank: int) -> None:
    """Fetch the inputs under `prefix`, train, and upload the result if this is rank 0."""
    stage = json.loads(store.get(f"{prefix}/{exchange.STAGE}"))
    folder = Path(tempfile.gettempdir()) / Path(prefix).name
    fetched = folder / "fetched"
    with lock_folder(folder):
        if not fetched.is_file():
            exchange.download(store, f"{prefix}/{exchange.INPUTS}", folder / exchange.INPUTS)
            fetched.touch()
    inputs = {field: str(folder / exchange.INPUTS / name) for field, name in stage["inputs"].items()}
    output = folder / exchange.TRAINING
    checkpoints = entry.find_checkpoints(stage["checkpoints"])
    entry.link_loggers(stage.get("run", ""))
    server = StatusServer.of(os.environ) if rank == 0 else None
    with report_progress(server, output):
        training.train(stage["experiment"], stage["overrides"], inputs, output, checkpoints)
    if rank == 0:
        upload_result(store, output, prefix)


def upload_result(store: ObjectStore, output: Path, prefix: str) -> None:
    """Upload what later stages read of a training, and mark the job as done."""
    for part in output.iterdir():
        if part.is_dir() and part.name not in training.WORKINGS:
            exchange.upload(store, part, f"{prefix}/{exchange.TRAINING}/{part.name}")
        elif part.is_file():
            store.upload(f"{prefix}/{exchange.TRAINING}/{part.name}", part)
    store.put(f"{prefix}/{exchange.DONE}", b"", content_type="text/plain")


def main() -> int:
    """Run the command. An error is one line on standard error, with the exit codes of `python -m training.train`."""
    uri = ObjectUri.parse(sys.argv[1])
    if uri is None:
        print(f"{sys.argv[1]!r} is not allowed; permitted: s3://BUCKET/PREFIX", file=sys.stderr)
        return 2
    try:
        store = ObjectStore.connect(load_store(), uri.bucket)
    except DarkroomError as error:
        print(error, file=sys.stderr)
        return exit_code_of(error)
    with KeptOutput(store, log_key(uri.key, entry.rank(), entry.host())):
        try:
            run(store, uri.key, entry.rank())
        except DarkroomError as error:
            print(error, file=sys.stderr)
            return exit_code_of(error)
        except Exception:
            traceback.print_exc()  # here, so that it is kept
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
