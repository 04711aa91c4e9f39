"""A process does not go on without one of its threads."""

import subprocess
import sys

import pytest

from services.process.watchdog import EXIT_HUNG

RUN = """
import logging, time
from services.process.threads import start_thread
logging.basicConfig()
def work():
    {body}
start_thread(work, "work")
time.sleep(5)
"""


@pytest.mark.parametrize(
    ("body", "code"), [("raise KeyError('format')", EXIT_HUNG), ("raise SystemExit(0)", EXIT_HUNG), ("return", 0)]
)
def test_a_process_whose_thread_fails_exits(body: str, code: int) -> None:
    ended = subprocess.run([sys.executable, "-c", RUN.format(body=body)], capture_output=True, text=True, timeout=30)
    assert ended.returncode == code, ended.stderr
    assert ("the thread work failed; this process exits" in ended.stderr) == (code != 0)
