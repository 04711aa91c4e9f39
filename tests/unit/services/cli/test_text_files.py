"""A mistake in a file that a command reads is one message."""

from pathlib import Path

import pytest

from services.cli.job_access import parse_request
from services.cli.jobs import read_jobs
from services.cli.text_files import read_secret, read_text
from services.errors import CommandError

JOB = '{"model": "digits", "request": {"items": [{"caption": "one\u2028two"}]}}'


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "does not exist"), (b"", "cannot be read (Is a directory)"), (b"a\xff", "byte 2 is not UTF-8")],
)
def test_a_file_that_is_not_text_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "file"
    if content:
        path.write_bytes(content)
    elif content is not None:
        path.mkdir()
    with pytest.raises(CommandError) as refusal:
        read_text("--secret-file", path)
    assert str(refusal.value).startswith(f"--secret-file: {path} ")
    assert reason in str(refusal.value)


def test_a_secret_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(" 1234567890\n")
    assert read_secret("--secret-file", path, shortest=10) == "1234567890"
    with pytest.raises(CommandError, match=r"^--secret-file: 10 characters are not allowed; permitted: at least 11$"):
        read_secret("--secret-file", path, shortest=11)


@pytest.mark.parametrize(
    ("request_text", "reason"),
    [("[" * 100_000, "nested too deeply; permitted"), ('{"seed": NaN}', "NaN is not a number"), ("{", "not JSON")],
    ids=["deep", "NaN", "open"],
)
def test_a_request_that_is_not_json_is_refused(request_text: str, reason: str) -> None:
    with pytest.raises(CommandError, match=f"^--request: .*{reason}.*; an example: "):
        parse_request(request_text)


def test_a_line_of_jobs_ends_with_a_line_feed_alone(tmp_path: Path) -> None:
    """A caption may have other characters that Python takes for the end of a line."""
    path = tmp_path / "jobs.jsonl"
    path.write_text(f"{JOB}\r\n{JOB}\n")
    assert [job["request"]["items"][0]["caption"] for job in read_jobs(path)] == ["one\u2028two"] * 2
    path.write_text(f"{JOB}\n\n{JOB}\n")
    with pytest.raises(CommandError, match=r"line 2: not JSON.*; nothing was submitted"):
        read_jobs(path)
