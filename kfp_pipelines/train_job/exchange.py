"""Exchanges files between a stage and the nodes of its TrainJob, under a prefix of S3."""

from pathlib import Path

from services.storage.object_store import ObjectStore

PREFIX = "train-jobs"
STAGE, INPUTS, TRAINING, DONE = "stage.json", "inputs", "training", "done"


def upload(store: ObjectStore, folder: Path, prefix: str) -> None:
    """Upload every file of a folder to a prefix."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.upload(f"{prefix}/{path.relative_to(folder)}", path)


def download(store: ObjectStore, prefix: str, folder: Path) -> None:
    """Download the files under a prefix to a folder."""
    for key in store.keys(f"{prefix}/"):
        path = folder / key.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(key, path)
