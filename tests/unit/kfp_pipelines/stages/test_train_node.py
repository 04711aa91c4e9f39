"""A rank of a TrainJob ends with the exit codes of `python -m training.train`."""

import pytest

from kfp_pipelines.stages import train_node
from services.storage.object_store import ObjectStore
from training.data.image_set import DataError
from training.errors import DarkroomError
from training.runs.errors import Interrupted


@pytest.mark.parametrize(("error", "code"), [(DataError("data: is empty"), 2), (Interrupted("stopped at step 3"), 75)])
def test_an_error_is_one_line_and_its_exit_code(
    error: DarkroomError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(store: ObjectStore, prefix: str, rank: int) -> None:
        raise error

    monkeypatch.setenv("DARKROOM_S3_BUCKET", "bucket")
    monkeypatch.setattr(train_node, "run", fail)
    monkeypatch.setattr("sys.argv", ["train_node", "s3://bucket/prefix"])
    assert train_node.main() == code
    assert capsys.readouterr().err == f"{error}\n"
