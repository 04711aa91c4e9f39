"""A path that cannot be used, or a full disk, is a message and no bug."""

import errno
from pathlib import Path

import pytest

from services.cli.failures import exit_on_error
from training.commands import run_command
from training.disk import describe_file_error

FULL = OSError(errno.ENOSPC, "No space left on device")


def make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def read(path: Path) -> None:
    path.read_bytes()


@pytest.mark.parametrize(
    ("use", "inner", "reason"),
    [(make_folder, "", "File exists"), (make_folder, "inner", "Not a directory"), (read, "..", "Is a directory")],
    ids=["a file", "below a file", "a folder"],
)
def test_a_path_of_the_wrong_kind_is_named(tmp_path: Path, use, inner: str, reason: str, capsys) -> None:
    (tmp_path / "file").touch()
    path = tmp_path if inner == ".." else tmp_path / "file" / inner
    assert run_command(lambda: use(path)) == 2
    told = f"{path} cannot be used ({reason}); give another path, or correct its type or permissions\n"
    assert capsys.readouterr().err == told
    with pytest.raises(SystemExit) as ended, exit_on_error():
        use(path)
    assert ended.value.code == 1
    assert capsys.readouterr().err.endswith(told)


def test_a_full_disk_and_other_errors_are_told_apart(tmp_path: Path) -> None:
    assert describe_file_error(FULL) == (
        "the disk is full ([Errno 28] No space left on device); make room and run the same command again"
    )
    for bug in (
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        FileExistsError(errno.EEXIST, "File exists", str(tmp_path)),  # a folder, so the code did not expect it
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # of no file, such as a signal
        ValueError("x"),
    ):
        assert describe_file_error(bug) is None


def test_a_folder_that_was_deleted_meanwhile_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "run" / "losses.csv").open("a")
    assert describe_file_error(caught.value) == (
        f"the folder {tmp_path}/run does not exist; if it was deleted meanwhile, run the same command again"
    )
