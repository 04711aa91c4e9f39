"""What a process and its children print is printed as before, and kept."""

import subprocess
import sys

import pytest

from kfp_pipelines.train_job import node_logs
from kfp_pipelines.train_job.node_logs import KEPT, KeptOutput, last_lines, log_key
from tests.support.stack import Stack

PROGRAM = """
import os, subprocess, sys, time
from kfp_pipelines.train_job import node_logs
from services.settings import load
from services.storage.object_store import ObjectStore

node_logs.INTERVAL_S = 0.1
store = ObjectStore.connect(load("worker", os.environ))
with node_logs.KeptOutput(store, sys.argv[1]):
    print("from this process")
    subprocess.run([sys.executable, "-c", "import sys; print('from a child', file=sys.stderr)"])
    {end}
print("after")
"""


def run(stack: Stack, key: str, end: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", PROGRAM.replace("{end}", end), key]
    environment = {"DARKROOM_ROOT": str(stack.root), "PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_what_children_print_is_kept_and_printed(stack: Stack) -> None:
    done = run(stack, "train-jobs/a/logs/rank-000-x.log", "pass")
    assert (done.returncode, done.stdout, done.stderr) == (0, "from this process\nafter\n", "from a child\n")
    assert stack.store().get("train-jobs/a/logs/rank-000-x.log").splitlines() == [b"from a child", b"from this process"]
    assert last_lines(stack.store(), "train-jobs/a").splitlines()[1:] == ["from a child", "from this process"]


def test_a_process_that_is_killed_leaves_what_it_had_printed(stack: Stack) -> None:
    key = "train-jobs/b/logs/rank-000-x.log"
    end = f"sys.stdout.flush()\n    while store.etag({key!r}) is None: time.sleep(0.05)\n    os.kill(os.getpid(), 9)"
    assert run(stack, key, end).returncode == -9
    assert b"from a child" in stack.store().get(key)


def test_the_end_of_much_output_is_kept(stack: Stack) -> None:
    key = "train-jobs/c/logs/rank-000-x.log"
    done = run(stack, key, "[print('y' * 79) for _ in range(20000)]")
    assert len(done.stdout) > KEPT
    content = stack.store().get(key)
    assert len(content) == KEPT
    assert content.endswith(b"y" * 79 + b"\n")


def test_a_store_that_does_not_answer_ends_no_training(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.storage.object_store import ObjectStore

    settings = stack.settings("worker").model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"})
    monkeypatch.setattr(node_logs, "END_S", 1.0)
    kept = KeptOutput(ObjectStore.connect(settings), log_key("train-jobs/d", 0, "node-a"))
    kept._kept, kept._is_changed = bytearray(b"words"), True
    kept._upload()
    assert kept._is_changed, "the next round tries again"
